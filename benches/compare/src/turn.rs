//! One contestant's turn, in a process of its own: what it does to the heap, and threads that it
//! leaves, trouble nobody else, and one that never ends is cut.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Shape, Work};
use crate::field;

/// A turn is planned to take a fraction of a second. After this it hangs, or has lost an item.
const LIMIT: Duration = Duration::from_secs(60);

/// What the child process is told.
pub struct Turn {
    contestant: &'static dyn Contestant,
    work: Work,
    warm_up: u64,
}

impl Turn {
    /// Reads what [`measure`] writes.
    pub fn read(args: &[String]) -> Result<Self, String> {
        let [name, numbers @ ..] = args else { return Err("turn: no name".into()) };
        let contestant = field::find(name).ok_or(format!("no contestant {name}"))?;
        let numbers: Vec<usize> = numbers.iter().filter_map(|one| one.parse().ok()).collect();
        let [producers, bytes, depth, items, warm_up] = numbers[..] else {
            return Err("turn NAME PRODUCERS BYTES DEPTH ITEMS WARM-UP".into());
        };
        let shape = Shape { producers: producers.max(1), bytes, depth };
        Ok(Self { contestant, work: Work { shape, items: items as u64 }, warm_up: warm_up as u64 })
    }

    /// Prints the seconds, or what is wrong.
    pub fn take(&self) {
        match self.seconds() {
            Ok(seconds) => println!("{seconds:.9}"),
            Err(why) => println!("{why}"),
        }
    }

    fn seconds(&self) -> Result<f64, String> {
        if self.warm_up > 0 {
            let warm_up = Work { items: self.warm_up, ..self.work };
            self.contestant.run(&warm_up).check(&warm_up)?;
        }
        let outcome = self.contestant.run(&self.work);
        outcome.check(&self.work)?;
        Ok(outcome.seconds)
    }
}

/// Seconds that the contestant takes for this work, after a smaller run of as many items as
/// `warm_up` says.
pub fn measure(contestant: &dyn Contestant, work: &Work, warm_up: u64) -> Result<f64, String> {
    let Shape { producers, bytes, depth } = work.shape;
    let exe = std::env::current_exe().map_err(|why| format!("no path of this program: {why}"))?;
    let mut child = Command::new(exe)
        .args(["turn", contestant.name()])
        .args([producers, bytes, depth].map(|number| number.to_string()))
        .args([work.items, warm_up].map(|number| number.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|why| format!("no process to be had: {why}"))?;
    let mut output = child.stdout.take().ok_or("no pipe to the process")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let read = output.read_to_string(&mut text);
        let _ = sender.send(read.map(|_| text));
    });
    let told = receiver.recv_timeout(LIMIT);
    if told.is_err() {
        let _ = child.kill(); // it may have ended just now
    }
    let status = child.wait().map_err(|why| why.to_string())?;
    let _ = reader.join();
    let text = told
        .map_err(|_| format!("no end within {LIMIT:?}: it hangs, or an item is lost"))?
        .map_err(|why| why.to_string())?;
    match text.trim() {
        "" => Err(format!("it died: {status}")),
        told => told.parse().map_err(|_| told.to_owned()),
    }
}
