//! Promise: what the library makes of a machine by way of hwloc is what is in hwloc's export of that
//! machine, read by somebody else.
//!
//! hwloc takes an export for the machine where the environment says so, once in a process. So each is
//! looked at by a process of its own, this test run anew.

#![allow(clippy::unwrap_used)]

mod machines;

use std::process::Command;

use sluicegate::placement::Machine;

/// The name of the export.
const EXPORT: &str = "SLUICEGATE_EXPORT";

#[test]
fn hwloc_and_the_export_of_hwloc_agree_on_every_machine() {
    for name in machines::EXPORTS {
        let file = format!("{}/tests/machines/{name}.xml", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "is_what_was_exported", "--ignored", "--nocapture"]);
        let output = command.env("HWLOC_XMLFILE", file).env(EXPORT, name).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{name}: {}\n{out}\n{err}", output.status);
        assert!(out.contains("1 passed"), "{out}");
    }
}

#[test]
#[ignore = "needs an export: run by hwloc_and_the_export_of_hwloc_agree_on_every_machine"]
fn is_what_was_exported() {
    let name = std::env::var(EXPORT).unwrap();
    let machine = Machine::detect();
    assert_eq!(machine.topology, machines::export(&name));
    assert_eq!(machine.backend, "hwloc");
    assert!(machine.notes[0].contains("HWLOC_XMLFILE is set"), "{:?}", machine.notes);
}
