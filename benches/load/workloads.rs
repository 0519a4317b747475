//! Workloads of pgbench, and how targets take turns in them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::account::cpu_us;
use crate::pgbench::{Length, Said, bench};
use crate::report::{Report, Row};
use crate::targets::{Target, Targets};

/// One statement mix in one protocol with so many clients.
#[derive(Clone, Debug)]
pub struct Workload {
    script: Script,
    protocol: &'static str,
    clients: u32,
}

#[derive(Clone, Debug)]
struct Script {
    name: &'static str,
    /// Text of a custom script; otherwise a built-in of pgbench.
    text: Option<&'static str>,
    builtin: &'static [&'static str],
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Through everything before the plain server.
    Plain,
    /// Through Ostrakon before one and before three shards.
    Sharded,
}

const POINT: &str = "\\set aid random(1, 1000000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
const TWO: &str = "\\set aid random(1, 1000000)\nBEGIN;\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n\
                   SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\nCOMMIT;\n";
const COUNT: &str = "\\set aid random(1, 900000)\nSELECT count(*), sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN :aid AND :aid + 3000;\n";
const TOP: &str =
    "\\set aid random(1, 900000)\nSELECT aid, abalance FROM pgbench_accounts WHERE aid > :aid ORDER BY aid LIMIT 10;\n";
const PIPELINE: &str = "\\startpipeline\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = 1;\nSELECT abalance FROM pgbench_accounts WHERE aid = 2;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = 3;\nSELECT abalance FROM pgbench_accounts WHERE aid = 4;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = 5;\nSELECT abalance FROM pgbench_accounts WHERE aid = 6;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = 7;\nSELECT abalance FROM pgbench_accounts WHERE aid = 8;\n\\endpipeline\n";

/// Those with so many clients. Unless `is_full`, what the goals compare and little more: the whole in 20 minutes.
pub fn all(clients: &[u32], is_full: bool) -> Vec<Workload> {
    let builtin = |name, builtin| Script { name, text: None, builtin, place: Place::Plain };
    let custom = |name, text, place| Script { name, text: Some(text), builtin: &[], place };
    let every = ["simple", "extended", "prepared"].as_slice();
    // With how many clients.
    let (range, compared, one) = ([1, 16, 64, 256].as_slice(), [16, 64].as_slice(), [16].as_slice());
    let (in_two, more) = if is_full { (every, range) } else { (&every[..2], one) };
    let scripts = [
        (builtin("select", &["-S"][..]), &every[..1], range),
        (builtin("select", &["-S"][..]), &every[1..], if is_full { range } else { compared }),
        (builtin("simple update", &["-N"][..]), in_two, compared),
        (builtin("tpc-b", &[][..]), &every[..2], compared),
        (custom("pipeline of 8 selects", PIPELINE, Place::Plain), &every[1..], one),
        (custom("point select by key", POINT, Place::Sharded), every, more),
        (custom("transaction on one shard", TWO, Place::Sharded), in_two, one),
        (custom("count and sum of 3,000 rows", COUNT, Place::Sharded), &every[..1], one),
        (custom("order by, limit 10", TOP, Place::Sharded), &every[..1], one),
    ];
    let mut workloads = Vec::new();
    for (script, protocols, counts) in scripts {
        for &protocol in protocols {
            for &clients in counts.iter().filter(|count| clients.contains(count)) {
                workloads.push(Workload { script: script.clone(), protocol, clients });
            }
        }
    }
    workloads
}

impl Workload {
    /// Its name, as `--only` compares it.
    pub fn name(&self) -> String {
        format!("{}, {}, {} clients", self.script.name, self.protocol, self.clients)
    }

    /// Its system calls are counted in every run: one statement, at the number of clients that is compared most.
    pub fn is_counted(&self) -> bool {
        self.script.name == "select" && self.clients == 16
    }

    fn arguments(&self) -> Vec<String> {
        self.script.builtin.iter().map(|argument| (*argument).to_owned()).collect()
    }

    fn targets<'a>(&self, targets: &'a Targets) -> Vec<&'a Target> {
        let all: Vec<&Target> = match self.script.place {
            // The floor is that of one statement a transaction.
            Place::Plain => targets
                .plain
                .iter()
                .filter(|target| self.script.name == "select" || target.name != "bare relay")
                .collect(),
            Place::Sharded => vec![targets.plain("direct"), targets.plain("ostrakon"), &targets.sharded],
        };
        all.into_iter().filter(|target| self.protocol != "prepared" || target.prepares).collect()
    }

    /// One run on one target: what pgbench said and the proxy's CPU, in microseconds.
    fn once(&self, target: &Target, length: Length) -> (Said, f64) {
        let mut arguments = self.arguments();
        let script = self.script.text.map(|text| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        if let Some(file) = &script {
            arguments.extend(["-f".to_owned(), file.path().display().to_string()]);
        }
        let before = cpu_us(&target.pids);
        let said = bench(target.port, &arguments, self.protocol, self.clients, length);
        (said, cpu_us(&target.pids) - before)
    }
}

fn shortest(length: Length) -> Length {
    match length {
        Length::Seconds(_) => Length::Seconds(1),
        Length::Transactions(_) => Length::Transactions(1),
    }
}

/// Rounds in turn.
pub fn run(workload: &Workload, targets: &Targets, rounds: usize, length: Length, report: &mut Report) {
    let targets = workload.targets(targets);
    let mut rows: Vec<Row> = targets.iter().map(|target| Row::new(&target.name)).collect();
    // A round that is not counted: plans, pools and caches warm up.
    for target in &targets {
        workload.once(target, shortest(length));
    }
    for _ in 0..rounds {
        for (target, row) in targets.iter().zip(&mut rows) {
            let (said, cpu) = workload.once(target, length);
            row.note("tps", said.per_s);
            row.note("p50 us", said.p50_us);
            row.note("p99 us", said.p99_us);
            if !target.pids.is_empty() {
                row.note("cpu us", cpu / said.transactions);
            }
        }
    }
    report.table(&workload.name(), rows);
}

/// System calls per transaction, by `strace -c -f`, in one run of a second.
pub fn count_system_calls(workload: &Workload, targets: &Targets, report: &mut Report) {
    let mut rows = Vec::new();
    for target in workload.targets(targets) {
        let Some(pid) = target.pids.first() else { continue };
        let mut strace = Command::new("strace");
        let counts = tempfile::NamedTempFile::new().unwrap();
        strace.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(counts.path());
        let Ok(mut strace) = strace.stderr(Stdio::null()).spawn() else { return };
        std::thread::sleep(std::time::Duration::from_millis(500));
        let (said, _) = workload.once(target, Length::Seconds(2));
        crate::cluster::signal(strace.id(), nix::sys::signal::Signal::SIGINT);
        let _ = strace.wait();
        let text = std::fs::read_to_string(counts.path()).unwrap_or_default();
        let calls: f64 = text
            .lines()
            .filter(|line| line.ends_with("total"))
            .filter_map(|line| line.split_whitespace().filter_map(|field| field.parse::<f64>().ok()).nth(3))
            .sum();
        let mut row = Row::new(&target.name);
        row.note("system calls", calls / said.transactions);
        rows.push(row);
    }
    report.table(&format!("{}, system calls", workload.name()), rows);
}
