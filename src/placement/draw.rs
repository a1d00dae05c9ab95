//! Draws a plan for a terminal.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::cpuset::CpuSet;
use super::options::Pin;
use super::plan::{FlusherPlan, LeftOut, NodePlan, Plan, count};
use super::topology::Cpu;

/// Columns of the terminal that is drawn for.
const WIDTH: usize = 100;

/// A line of a node's block: a label, and words that are never broken.
struct Entry {
    label: String,
    words: Vec<String>,
}

impl Entry {
    fn text(label: impl Into<String>, text: &str) -> Self {
        Self { label: label.into(), words: words(text) }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        paragraph(f, "", &self.summary())?;
        let marks = self.marks();
        for (index, node) in self.nodes().iter().enumerate() {
            let title = self.title(index, node);
            block(f, &title, self.entries(node, &marks))?;
        }
        for node in self.left_out() {
            let title = format!("node {} · {}", node.os_index, self.facts(node.os_index));
            block(f, &title, self.entries_left_out(node, &marks))?;
        }
        let legend = self.legend(&marks);
        if !self.notes().is_empty() || !legend.is_empty() {
            f.write_char('\n')?;
        }
        for note in self.notes() {
            paragraph(f, "note: ", note)?;
        }
        if legend.is_empty() { Ok(()) } else { paragraph(f, "", &legend) }
    }
}

impl Plan {
    fn summary(&self) -> String {
        let pinned = self.flushers().iter().filter(|flusher| flusher.cpus.is_some()).count();
        format!(
            "{} → {} on {}, {}, {} (pin: {})",
            self.machine(),
            count(self.rings().len(), "ring"),
            count(self.nodes().len(), "node"),
            count(self.flushers().len(), "flusher"),
            if pinned == 0 { "not pinned" } else { "pinned" },
            self.options.pin.name(),
        )
    }

    fn machine(&self) -> String {
        let cpus = self.topology().cpus();
        if cpus.is_empty() {
            return "an unknown machine".to_owned();
        }
        let mut cores: Vec<u32> = cpus.iter().map(|cpu| cpu.core).collect();
        cores.sort_unstable();
        cores.dedup();
        let nodes = count(self.topology().nodes().len(), "NUMA node");
        let usable = cpus.iter().filter(|cpu| cpu.usable()).count();
        let (cores, cpus) = (count(cores.len(), "core"), count(cpus.len(), "CPU"));
        format!("{nodes}, {cores}, {cpus}, {usable} usable")
    }

    fn title(&self, index: usize, node: &NodePlan) -> String {
        let Some(os_index) = node.os_index else { return "the whole machine".to_owned() };
        let mut title = format!("node {os_index} · {}", self.facts(os_index));
        let near = self.nearest(index).iter().filter_map(|&near| self.nodes().get(near)?.os_index);
        for (place, near) in near.enumerate() {
            title.push_str(if place == 0 { " · then node " } else { ", " });
            let _ = write!(title, "{near} ({})", self.topology().distance(os_index, near));
        }
        title
    }

    /// Memory and packages of a NUMA node.
    fn facts(&self, os_index: u32) -> String {
        let node = self.topology().nodes().iter().find(|node| node.os_index == os_index);
        let mut facts = match node.and_then(|node| node.memory) {
            Some(bytes) if bytes > 0 => memory(bytes),
            _ => "no memory".to_owned(),
        };
        if node.is_some_and(|node| !node.memory_allowed) {
            facts.push_str(" (not for this process)");
        }
        let mut packages: Vec<u32> =
            self.topology().cpus_on(os_index).map(|cpu| cpu.package).collect();
        packages.dedup();
        for package in packages {
            let _ = write!(facts, " · package {package}");
        }
        facts
    }

    fn entries(&self, node: &NodePlan, marks: &BTreeMap<u32, String>) -> Vec<Entry> {
        let mut entries = Vec::new();
        if node.os_index.is_none() {
            entries.push(Entry::text("node", &node.why));
        } else {
            entries.push(Entry::text("CPUs", &node.why));
        }
        for index in node.rings.clone() {
            let Some(ring) = self.rings().get(index) else { continue };
            let flushers: Vec<String> = ring.flushers.iter().map(|f| format!("F{f}")).collect();
            let text = format!("for {}, {}", flushers.join(","), ring.why);
            entries.push(Entry::text(format!("ring {index}"), &text));
        }
        let flushers = self.flushers().get(node.flushers.clone()).unwrap_or(&[]);
        let mut index = node.flushers.start;
        for alike in flushers.chunk_by(|a, b| (&a.cpus, &a.why) == (&b.cpus, &b.why)) {
            entries.extend(alike.first().map(|one| flusher_entry(index, alike.len(), one)));
            index += alike.len();
        }
        if let Some(os_index) = node.os_index {
            entries.extend(self.cores(os_index, marks));
        }
        entries
    }

    fn entries_left_out(&self, node: &LeftOut, marks: &BTreeMap<u32, String>) -> Vec<Entry> {
        let mut entries = vec![Entry::text("no ring", &node.why)];
        let home = self.nodes().get(node.home).and_then(|home| home.os_index);
        let adds = self.topology().cpus_on(node.os_index).next().is_some();
        if let Some(home) = home.filter(|_| adds) {
            entries.push(Entry::text("home", &format!("of whatever adds there: node {home}")));
        }
        entries.extend(self.cores(node.os_index, marks));
        entries
    }

    /// The cores of a node, those of a last-level cache in an entry.
    fn cores(&self, os_index: u32, marks: &BTreeMap<u32, String>) -> Vec<Entry> {
        let mut caches: BTreeMap<Option<u32>, BTreeMap<u32, Vec<String>>> = BTreeMap::new();
        for cpu in self.topology().cpus_on(os_index) {
            let cores = caches.entry(cpu.cache).or_default();
            cores.entry(cpu.core).or_default().push(cell(cpu, marks));
        }
        let boxes = |cores: &BTreeMap<u32, Vec<String>>| -> Vec<String> {
            cores.values().map(|cpus| format!("[{}]", cpus.join(" "))).collect()
        };
        let drawn: Vec<_> = caches.iter().map(|(cache, cores)| (*cache, boxes(cores))).collect();
        let widest = drawn.iter().flat_map(|drawn| &drawn.1).map(String::len).max().unwrap_or(0);
        let entry = |(cache, boxes): (Option<u32>, Vec<String>)| Entry {
            label: cache.map_or("cores".to_owned(), |cache| format!("cache {cache}")),
            words: boxes.into_iter().map(|drawn| format!("{drawn:<widest$}")).collect(),
        };
        drawn.into_iter().map(entry).collect()
    }

    /// The flushers that are pinned to cores, as they are marked there.
    fn marks(&self) -> BTreeMap<u32, String> {
        let mut flushers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, flusher) in self.flushers().iter().enumerate() {
            let cpus = flusher.cpus.iter().filter(|_| self.options.pin == Pin::Core);
            for cpu in cpus.flat_map(CpuSet::iter) {
                flushers.entry(cpu).or_default().push(index);
            }
        }
        let mark = |(cpu, flushers): (u32, Vec<usize>)| {
            let mark = match flushers[..] {
                [first, _, _, ..] => format!("=F{first}+{}", flushers.len() - 1),
                _ => flushers.iter().map(|flusher| format!("=F{flusher}")).collect(),
            };
            (cpu, mark)
        };
        flushers.into_iter().map(mark).collect()
    }

    /// Explains the signs that are in the picture.
    fn legend(&self, marks: &BTreeMap<u32, String>) -> String {
        let cpus = self.topology().cpus();
        let mut signs = Vec::new();
        if !cpus.is_empty() {
            signs.push("[ ] a core with its CPUs".to_owned());
        }
        if !marks.is_empty() {
            signs.push("=F0 flusher 0 runs there".to_owned());
        }
        if marks.values().any(|mark| mark.contains('+')) {
            signs.push("+2 and two others".to_owned());
        }
        if cpus.iter().any(|cpu| cpu.online && !cpu.allowed) {
            signs.push("- not for this process".to_owned());
        }
        if cpus.iter().any(|cpu| !cpu.online) {
            signs.push("x offline".to_owned());
        }
        signs.join(" · ")
    }
}

fn flusher_entry(index: usize, alike: usize, flusher: &FlusherPlan) -> Entry {
    let label = match alike {
        1 => format!("F{index}"),
        _ => format!("F{index}-F{}", index + alike - 1),
    };
    match &flusher.cpus {
        Some(cpus) => Entry::text(label, &format!("on CPU {cpus}: {}", flusher.why)),
        None => Entry::text(label, &flusher.why),
    }
}

fn cell(cpu: &Cpu, marks: &BTreeMap<u32, String>) -> String {
    let mark = match (cpu.online, cpu.allowed) {
        (false, _) => "x",
        (true, false) => "-",
        (true, true) => marks.get(&cpu.os_index).map_or("", String::as_str),
    };
    format!("{}{mark}", cpu.os_index)
}

/// Bytes in the unit that people buy memory in.
fn memory(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1 << 30 { (1 << 30, "GiB") } else { (1 << 20, "MiB") };
    let tenths = (u128::from(bytes) * 10).div_ceil(unit);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, tenth) => format!("{whole}.{tenth} {name}"),
    }
}

/// A title, and under it the entries as a tree.
fn block(f: &mut fmt::Formatter<'_>, title: &str, entries: Vec<Entry>) -> fmt::Result {
    f.write_char('\n')?;
    paragraph(f, "", title)?;
    let labels = entries.iter().map(|entry| entry.label.len()).max().unwrap_or(0);
    let last = entries.len().saturating_sub(1);
    for (index, Entry { label, words }) in entries.into_iter().enumerate() {
        let (branch, beside) = if index == last { ('└', ' ') } else { ('├', '│') };
        let first = format!("{branch} {label:<labels$}  ");
        let next = format!("{beside} {:<labels$}  ", "");
        lines(f, &first, &next, &words)?;
    }
    Ok(())
}

/// Text over as many lines as it needs.
fn paragraph(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    let indent = if label.is_empty() { 2 } else { label.len() };
    lines(f, label, &" ".repeat(indent), &words(text))
}

/// The words of a text; "CPU 1,9" is one.
fn words(text: &str) -> Vec<String> {
    let glued = text.replace("CPU ", "CPU\0");
    glued.split(' ').map(|word| word.replace('\0', " ")).collect()
}

/// Words over as many lines as they need: the first begins with `first`, the others with `next`.
fn lines(f: &mut fmt::Formatter<'_>, first: &str, next: &str, words: &[String]) -> fmt::Result {
    let wide = |text: &str| text.chars().count();
    let (mut line, mut begun) = (first.to_owned(), false);
    for word in words {
        if begun && wide(&line) + 1 + wide(word.trim_end()) > WIDTH {
            writeln!(f, "{}", line.trim_end())?;
            (line, begun) = (next.to_owned(), false);
        }
        line.push_str(if begun { " " } else { "" });
        line.push_str(word);
        begun = true;
    }
    writeln!(f, "{}", line.trim_end())
}
