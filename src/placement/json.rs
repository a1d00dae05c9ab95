//! A plan as JSON.

use std::fmt::{self, Write as _};

use super::plan::Plan;
use crate::json::Quoted;

impl Plan {
    /// The plan and its machine as one JSON object, on one line. Field names are those of
    /// [`NodePlan`](super::NodePlan) and its kin, of [`NumaNode`](super::NumaNode) and of
    /// [`Cpu`](super::Cpu); sets of CPUs are arrays; `memory` of a node is in bytes, and its
    /// `distances` are in the order of `topology.nodes`.
    ///
    /// ```
    /// use sluicegate::placement::{Options, Topology, plan};
    ///
    /// let json = plan(&Topology::default(), &Options::default()).to_json();
    /// assert!(json.starts_with(r#"{"version":1,"pin":"node","nodes":[{"os_index":null,"#));
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::new();
        let _ = self.write_json(&mut json); // writing to a string cannot fail
        json
    }

    fn write_json(&self, out: &mut String) -> fmt::Result {
        write!(out, r#"{{"version":1,"pin":"{}","nodes":"#, self.options.pin.name())?;
        list(out, self.nodes().iter().enumerate(), |out, (index, node)| {
            write!(out, r#"{{"os_index":{},"cpus":"#, maybe(node.os_index))?;
            numbers(out, node.cpus.iter())?;
            out.write_str(r#","rings":"#)?;
            numbers(out, node.rings.clone())?;
            out.write_str(r#","flushers":"#)?;
            numbers(out, node.flushers.clone())?;
            out.write_str(r#","nearest":"#)?;
            numbers(out, self.nearest(index))?;
            why(out, &node.why)
        })?;
        out.write_str(r#","rings":"#)?;
        list(out, self.rings().iter(), |out, ring| {
            write!(out, r#"{{"node":{},"memory":{},"#, ring.node, maybe(ring.memory))?;
            out.write_str(r#""flushers":"#)?;
            numbers(out, &ring.flushers)?;
            why(out, &ring.why)
        })?;
        self.write_flushers(out)?;
        self.write_left_out(out)?;
        self.write_machine(out)?;
        out.write_char('}')
    }

    fn write_flushers(&self, out: &mut String) -> fmt::Result {
        out.write_str(r#","flushers":"#)?;
        list(out, self.flushers().iter(), |out, flusher| {
            write!(out, r#"{{"node":{},"ring":{},"cpus":"#, flusher.node, flusher.ring)?;
            match &flusher.cpus {
                Some(cpus) => numbers(out, cpus.iter())?,
                None => out.write_str("null")?,
            }
            why(out, &flusher.why)
        })
    }

    fn write_left_out(&self, out: &mut String) -> fmt::Result {
        out.write_str(r#","left_out":"#)?;
        list(out, self.left_out().iter(), |out, node| {
            write!(out, r#"{{"os_index":{},"home":{}"#, node.os_index, node.home)?;
            why(out, &node.why)
        })?;
        out.write_str(r#","notes":"#)?;
        list(out, self.notes().iter(), |out, note| write!(out, "{}", Quoted(note)))
    }

    fn write_machine(&self, out: &mut String) -> fmt::Result {
        let machine = self.topology();
        out.write_str(r#","topology":{"nodes":"#)?;
        list(out, machine.nodes().iter(), |out, node| {
            write!(out, r#"{{"os_index":{},"memory":{},"#, node.os_index, maybe(node.memory))?;
            write!(out, r#""memory_allowed":{},"distances":"#, node.memory_allowed)?;
            let others = machine.nodes().iter().map(|other| other.os_index);
            numbers(out, others.map(|other| machine.distance(node.os_index, other)))?;
            out.write_char('}')
        })?;
        out.write_str(r#","cpus":"#)?;
        list(out, machine.cpus().iter(), |out, cpu| {
            write!(out, r#"{{"os_index":{},"node":{},"#, cpu.os_index, cpu.node)?;
            write!(out, r#""core":{},"package":{},"#, cpu.core, cpu.package)?;
            write!(out, r#""cache":{},"performance":{},"#, maybe(cpu.cache), cpu.performance)?;
            write!(out, r#""online":{},"allowed":{}}}"#, cpu.online, cpu.allowed)
        })?;
        out.write_str(r#","offline":"#)?;
        numbers(out, machine.offline().iter())?;
        out.write_char('}')
    }
}

/// Values in brackets.
fn list<I: IntoIterator>(
    out: &mut String,
    values: I,
    write: impl Fn(&mut String, I::Item) -> fmt::Result,
) -> fmt::Result {
    out.write_char('[')?;
    for (index, value) in values.into_iter().enumerate() {
        out.write_str(if index == 0 { "" } else { "," })?;
        write(out, value)?;
    }
    out.write_char(']')
}

fn numbers(out: &mut String, values: impl IntoIterator<Item = impl fmt::Display>) -> fmt::Result {
    list(out, values, |out, value| write!(out, "{value}"))
}

/// The last field of an object.
fn why(out: &mut String, why: &str) -> fmt::Result {
    write!(out, r#","why":{}}}"#, Quoted(why))
}

fn maybe(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}
