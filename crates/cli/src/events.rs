//! Made-up audit events: realistic in shape and size, the same for the same seed.

use std::io::{self, BufWriter, ErrorKind, Write};

use crate::args::EventsArgs;
use crate::run::Failure;

/// The columns that fit the events.
pub(crate) const COLUMNS: [&str; 9] = [
    "id:integer",
    "time:text",
    "actor:text",
    "action:text",
    "resource:text",
    "outcome:text",
    "ip:text",
    "duration_ms:real",
    "details:text",
];

const ACTIONS: [&str; 8] =
    ["login", "logout", "read", "create", "update", "delete", "export", "permission.change"];
const KINDS: [&str; 5] = ["invoice", "customer", "report", "api-key", "document"];
const AGENTS: [&str; 4] = ["web/5.2", "ios/3.9", "android/3.8", "cli/1.4"];
const ACTORS: u64 = 5_000;
const RESOURCES: u64 = 250_000;
/// 2026-01-01T00:00:00Z, in seconds.
const EPOCH: u64 = 1_767_225_600;

/// Prints events to standard output.
pub(crate) fn command(args: &EventsArgs) -> Result<u8, Failure> {
    match write(args, &mut BufWriter::with_capacity(1 << 18, io::stdout().lock())) {
        // `| head` has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(0),
    }
}

/// Writes the events as NDJSON.
pub(crate) fn write(args: &EventsArgs, out: &mut impl Write) -> io::Result<()> {
    let mut random = SplitMix(args.seed);
    let mut millis = EPOCH * 1_000;
    for id in 1..=args.count {
        millis += random.below(40);
        event(id, millis, &mut random, out)?;
    }
    out.flush()
}

fn event(id: u64, millis: u64, random: &mut SplitMix, out: &mut impl Write) -> io::Result<()> {
    // Squaring a fraction makes few actors busy and most of them rare.
    let share = random.below(1_000) * random.below(1_000);
    let actor = share * ACTORS / 1_000_000;
    let time = humantime::format_rfc3339_millis(
        std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis),
    );
    let outcome = match random.below(100) {
        0..=1 => "error",
        2..=6 => "denied",
        _ => "ok",
    };
    writeln!(
        out,
        "{{\"id\":{id},\"time\":\"{time}\",\"actor\":\"user-{actor:04}\",\"action\":\"{}\",\
         \"resource\":\"{}/{:06}\",\"outcome\":\"{outcome}\",\"ip\":\"10.{}.{}.{}\",\
         \"duration_ms\":{}.{:02},\"details\":{{\"agent\":\"{}\",\"session\":\"{:016x}\"}}}}",
        random.pick(&ACTIONS),
        random.pick(&KINDS),
        random.below(RESOURCES),
        actor % 250,
        random.below(256),
        random.below(256),
        random.below(900),
        random.below(100),
        random.pick(&AGENTS),
        random.next(),
    )
}

/// Steele, Lea and Flood's generator: small, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; for small `n` as good as even.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let index = self.below(of.len() as u64);
        of[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(seed: u64) -> String {
        let mut out = Vec::new();
        write(&EventsArgs { count: 50, seed }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(events(7), events(7));
        assert_ne!(events(7), events(8));
    }

    #[test]
    fn every_event_is_an_object_with_the_columns() {
        for line in events(1).lines() {
            let event: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).unwrap();
            let names: Vec<_> = COLUMNS.map(|column| column.split(':').next().unwrap()).into();
            assert_eq!(event.keys().collect::<Vec<_>>(), names);
        }
    }
}
