//! One contestant's turn, in a process of its own: what it does to the heap, and threads that it
//! leaves, trouble nobody else, and one that never ends is cut.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Shape, Work};
use crate::field;
use crate::paced::Latency;

/// A turn is planned to take a fraction of a second. After this it hangs, or has lost an item.
const LIMIT: Duration = Duration::from_secs(60);

/// What turns are taken for, and what comes of one: numbers, which go through a pipe and into a file.
pub trait Measure: Sized {
    /// The word for it.
    const WORD: &'static str;
    /// The names of the numbers, for the head of the file.
    const COLUMNS: &'static [&'static str];
    /// How often a turn is taken that is disturbed each time.
    const ATTEMPTS: usize = 1;

    /// Takes a turn, in this process. So many items are for warming up.
    fn take(contestant: &dyn Contestant, work: &Work, warm_up: u64) -> Result<Self, String>;

    /// The numbers, as they are written.
    fn words(&self) -> Vec<String>;

    /// From the numbers.
    fn of(numbers: &[f64]) -> Option<Self>;

    /// Whether the numbers themselves say that another program had a CPU.
    fn disturbed(&self) -> bool {
        false
    }
}

/// From the first add to the end of the last fold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub f64);

impl Measure for Seconds {
    const WORD: &'static str = "rate";
    const COLUMNS: &'static [&'static str] = &["seconds"];

    fn take(contestant: &dyn Contestant, work: &Work, warm_up: u64) -> Result<Self, String> {
        if warm_up > 0 {
            let warm_up = Work { items: warm_up, ..*work };
            contestant.run(&warm_up).check(&warm_up)?;
        }
        let outcome = contestant.run(work);
        outcome.check(work)?;
        Ok(Self(outcome.seconds))
    }

    fn words(&self) -> Vec<String> {
        vec![format!("{:.6}", self.0)]
    }

    fn of(numbers: &[f64]) -> Option<Self> {
        let &[seconds] = numbers else { return None };
        Some(Self(seconds))
    }
}

/// What the child process is told.
pub struct Turn {
    measure: String,
    contestant: &'static dyn Contestant,
    work: Work,
    warm_up: u64,
}

impl Turn {
    /// Reads what [`measure`] writes.
    pub fn read(args: &[String]) -> Result<Self, String> {
        let [measure, name, numbers @ ..] = args else { return Err("turn: no name".into()) };
        let contestant = field::find(name).ok_or(format!("no contestant {name}"))?;
        let numbers: Vec<usize> = numbers.iter().filter_map(|one| one.parse().ok()).collect();
        let [producers, bytes, depth, items, warm_up] = numbers[..] else {
            return Err("turn MEASURE NAME PRODUCERS BYTES DEPTH ITEMS WARM-UP".into());
        };
        let shape = Shape { producers: producers.max(1), bytes, depth };
        let (work, warm_up) = (Work { shape, items: items as u64 }, warm_up as u64);
        Ok(Self { measure: measure.clone(), contestant, work, warm_up })
    }

    /// Prints the numbers, or what is wrong.
    pub fn take(&self) {
        let told = match self.measure.as_str() {
            Seconds::WORD => self.words::<Seconds>(),
            Latency::WORD => self.words::<Latency>(),
            other => Err(format!("nothing is measured that is called {other}")),
        };
        println!("{}", told.unwrap_or_else(|why| why));
    }

    fn words<M: Measure>(&self) -> Result<String, String> {
        Ok(M::take(self.contestant, &self.work, self.warm_up)?.words().join(" "))
    }
}

/// What comes of a turn of the contestant with this work, of which `warm_up` items are for warming
/// up, or are as many as are.
pub fn measure<M: Measure>(
    contestant: &dyn Contestant,
    work: &Work,
    warm_up: u64,
) -> Result<M, String> {
    let Shape { producers, bytes, depth } = work.shape;
    let exe = std::env::current_exe().map_err(|why| format!("no path of this program: {why}"))?;
    let mut child = Command::new(exe)
        .args(["turn", M::WORD, contestant.name()])
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
        told => of_words(told.split(' ')).ok_or(told.to_owned()),
    }
}

/// From the numbers as they are written.
pub fn of_words<'a, M: Measure>(words: impl Iterator<Item = &'a str>) -> Option<M> {
    M::of(&words.map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>()?)
}
