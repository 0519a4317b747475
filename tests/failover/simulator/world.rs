//! Nodes, controllers that are proxies too, a store, and a network between them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ostrakon::base::{NodeId, Term};
use ostrakon::failover::{
    Acknowledgers, Action, Answer, Aside, Cause, Durability, Effect, Event, Failure, Machine, Member, Outcome, Phase,
    Record, Rules, Serving, Settings, Stamp,
};

use super::judge::Judge;
use super::node::{Entry, Node};
use super::random::Random;

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(NodeId),
    Proxy(usize),
    Store,
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Message {
    Probe {
        number: u64,
        asked: Duration,
    },
    Answer {
        number: u64,
        asked: Duration,
        answer: Result<Answer, Failure>,
    },
    Act {
        stamp: Stamp,
        action: Action,
    },
    Ended {
        stamp: Stamp,
        action: Action,
        outcome: Outcome,
    },
    Write {
        session: u64,
        value: u64,
    },
    Look {
        session: u64,
    },
    /// A standby asks for what comes after what it has on disk.
    Pull {
        tag: Term,
        length: usize,
        last: Entry,
    },
    Wal {
        length: usize,
        last: Entry,
        entries: Vec<Entry>,
    },
    Get {
        asked: Duration,
    },
    Got {
        asked: Duration,
        record: Record,
        revision: u64,
    },
    Put {
        number: u64,
        record: Box<Record>,
        expected: u64,
    },
    PutDone {
        number: u64,
        record: Box<Record>,
        revision: Option<u64>,
    },
    Changed {
        record: Box<Record>,
        revision: u64,
    },
    Hold,
    Held(bool),
}

// One is made for each message, and most are messages.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Happening {
    Deliver { from: Place, to: Place, message: Message },
    Wake(usize),
    Probes(usize),
    ProbeLate { proxy: usize, node: NodeId, number: u64 },
    PutLate { proxy: usize, number: u64 },
    HoldLate { proxy: usize, since: u64 },
    Holds(usize),
    Pulls(NodeId),
    Clients,
    Rejoined { node: NodeId, primary: NodeId, stamp: Stamp, asker: usize, action: Action },
    Fault,
    Restart(NodeId),
    Mend(Place, Place),
    StoreBack,
    Calm,
}

pub struct Proxy {
    pub machine: Machine,
    pub paused_until: u64,
    /// Its clock is off by this.
    pub skew: i64,
    reconnects: BTreeMap<NodeId, u64>,
    probes: BTreeMap<NodeId, u64>,
    put: Option<u64>,
    held_since: u64,
    woken_at: u64,
}

pub struct World {
    pub now: u64,
    number: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    pub random: Random,
    pub nodes: BTreeMap<NodeId, Node>,
    pub proxies: Vec<Proxy>,
    pub record: Record,
    revision: u64,
    pub store_is_up: bool,
    lease: Option<(usize, u64)>,
    pub cut: BTreeSet<(Place, Place)>,
    /// Messages take up to so many times longer.
    pub slowness: u64,
    pub is_calm: bool,
    pub judge: Judge,
    next_value: u64,
    pub trace: Option<Vec<String>>,
    /// Off in a negative control: what was made anew starts without asking whether the term is the last one.
    pub asks_before_start: bool,
    settings: Settings,
}

const PROBE_PAUSE: u64 = 100_000;
const PROBE_LATE: u64 = 300_000;
const PUT_LATE: u64 = 1_000_000;
const HOLD_PAUSE: u64 = 400_000;
const HOLD_LENGTH: u64 = 1_500_000;
const PULL_PAUSE: u64 = 10_000;
const CLIENT_PAUSE: u64 = 15_000;

impl World {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Random(seed);
        let replicas = random.between(1, 4) as usize;
        let quorum = random.between(1, replicas.min(2) as u64 + 1) as usize;
        let durability = Durability { quorum, acknowledgers: Acknowledgers::Any, is_available: random.chance(40) };
        let settings = Settings { durability, rules, ..Settings::default() };
        let ids: Vec<NodeId> = (1..=replicas as u32 + 1).map(NodeId).collect();
        let member = |node: &NodeId| Member { node: *node, zone: String::new(), priority: 0 };
        let members: Vec<Member> = ids.iter().map(member).collect();
        let first = Record::first(Term(1), NodeId(1), ids.iter().copied().skip(1).collect(), quorum);
        let proxy = |_| Proxy {
            machine: Machine::new(settings.clone(), members.clone()),
            paused_until: 0,
            skew: 0,
            reconnects: BTreeMap::new(),
            probes: BTreeMap::new(),
            put: None,
            held_since: 0,
            woken_at: 0,
        };
        let mut world = Self {
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes: ids.iter().map(|id| (*id, Node::new(*id, NodeId(1)))).collect(),
            proxies: (0..2).map(proxy).collect(),
            record: first,
            revision: 1,
            store_is_up: true,
            lease: None,
            cut: BTreeSet::new(),
            slowness: 1,
            is_calm: false,
            judge: Judge::default(),
            next_value: 1,
            trace: None,
            asks_before_start: true,
            settings,
            random,
        };
        for proxy in 0..2 {
            let offset = world.random.between(0, 100_000);
            world.at(offset, Happening::Wake(proxy));
            world.at(offset, Happening::Probes(proxy));
            world.at(offset, Happening::Holds(proxy));
        }
        for id in ids {
            world.at(u64::from(id.0) * 1_000, Happening::Pulls(id));
        }
        world.at(1_000_000, Happening::Clients);
        world
    }

    pub fn at(&mut self, time: u64, happening: Happening) {
        self.number += 1;
        self.queue.push(Reverse((time, self.number)));
        self.happenings.insert(self.number, happening);
    }

    pub fn after(&mut self, pause: u64, happening: Happening) {
        self.at(self.now + pause, happening);
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:9.3} {}", now as f64 / 1_000.0, text()));
        }
    }

    fn send(&mut self, from: Place, to: Place, message: Message) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let most = if self.random.chance(2) { 40_000 } else { 1_500 } * self.slowness;
        let delay = self.random.between(100, most.max(200));
        self.after(delay, Happening::Deliver { from, to, message });
    }

    /// Lives until then.
    pub fn run_until(&mut self, end: u64) {
        while let Some(Reverse((time, number))) = self.queue.peek().copied() {
            if time > end || !self.judge.broken.is_empty() {
                break;
            }
            self.queue.pop();
            self.now = time;
            if let Some(happening) = self.happenings.remove(&number) {
                self.happen(happening);
            }
        }
        self.now = end.max(self.now);
    }

    /// Who sleeps notices later.
    fn asleep_until(&self, happening: &Happening) -> Option<u64> {
        let (Happening::ProbeLate { proxy, .. } | Happening::PutLate { proxy, .. } | Happening::HoldLate { proxy, .. }) =
            happening
        else {
            return None;
        };
        Some(self.proxies[*proxy].paused_until).filter(|until| *until > self.now)
    }

    fn happen(&mut self, happening: Happening) {
        if let Some(until) = self.asleep_until(&happening) {
            return self.at(until, happening);
        }
        match happening {
            Happening::Deliver { from, to, message } => self.deliver(from, to, message),
            Happening::Wake(proxy) => {
                if self.proxies[proxy].woken_at <= self.now {
                    self.step(proxy, Event::Tick);
                }
            }
            Happening::Probes(proxy) => self.probes(proxy),
            Happening::ProbeLate { proxy, node, number } => {
                if self.proxies[proxy].probes.get(&node) == Some(&number) {
                    self.proxies[proxy].probes.remove(&node);
                    *self.proxies[proxy].reconnects.entry(node).or_default() += 1;
                    self.step(proxy, Event::Failed { node, failure: Failure::Timeout });
                }
            }
            Happening::PutLate { proxy, number } => {
                if self.proxies[proxy].put == Some(number) {
                    self.proxies[proxy].put = None;
                    self.step(proxy, Event::NotWritten);
                }
            }
            Happening::Holds(proxy) => {
                self.after(HOLD_PAUSE, Happening::Holds(proxy));
                if self.proxies[proxy].paused_until <= self.now {
                    self.send(Place::Proxy(proxy), Place::Store, Message::Hold);
                }
            }
            Happening::HoldLate { proxy, since } => {
                if self.proxies[proxy].held_since == since {
                    self.step(proxy, Event::Lease(false));
                }
            }
            Happening::Pulls(node) => self.pulls(node),
            Happening::Clients => self.clients(),
            Happening::Rejoined { node, primary, stamp, asker, action } => {
                self.rejoined(node, primary, stamp, asker, action);
            }
            Happening::Restart(node) => self.restart(node),
            Happening::Mend(from, to) => {
                self.cut.remove(&(from, to));
            }
            Happening::StoreBack => self.store_is_up = true,
            Happening::Calm => self.slowness = 1,
            Happening::Fault => self.fault(),
        }
    }

    pub fn restart(&mut self, node: NodeId) {
        let (now, recovery) = (self.now, self.random.between(50_000, 900_000));
        let Some(server) = self.nodes.get_mut(&node).filter(|server| !server.is_up && !server.is_wiped) else { return };
        server.start(now, recovery);
        self.note(|| format!("{node} starts"));
    }

    fn probes(&mut self, proxy: usize) {
        self.after(PROBE_PAUSE, Happening::Probes(proxy));
        if self.proxies[proxy].paused_until > self.now {
            return;
        }
        let asked = self.clock(proxy);
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.proxies[proxy].probes.contains_key(&node) {
                continue;
            }
            self.number += 1;
            let number = self.number;
            self.proxies[proxy].probes.insert(node, number);
            self.send(Place::Proxy(proxy), Place::Node(node), Message::Probe { number, asked });
            self.after(PROBE_LATE, Happening::ProbeLate { proxy, node, number });
        }
    }

    fn clock(&self, proxy: usize) -> Duration {
        Duration::from_micros((self.now as i64 + 10_000_000 + self.proxies[proxy].skew).max(0) as u64)
    }

    fn step(&mut self, proxy: usize, event: Event) {
        if self.proxies[proxy].paused_until > self.now {
            return;
        }
        let now = self.clock(proxy);
        let mut effects = Vec::new();
        let held = &mut self.proxies[proxy];
        held.machine.step(now, event, &mut effects);
        if let Some(wake) = held.machine.wake_at() {
            let pause = wake.saturating_sub(now).as_micros() as u64;
            let at = self.now + pause.max(1_000);
            if held.woken_at <= self.now || at < held.woken_at {
                held.woken_at = at;
                self.at(at, Happening::Wake(proxy));
            }
        }
        for effect in effects {
            self.carry_out(proxy, effect);
        }
    }

    fn carry_out(&mut self, proxy: usize, effect: Effect) {
        let from = Place::Proxy(proxy);
        match effect {
            Effect::Read { asked } => self.send(from, Place::Store, Message::Get { asked }),
            Effect::Write { record, expected } => {
                self.number += 1;
                let number = self.number;
                self.proxies[proxy].put = Some(number);
                self.send(from, Place::Store, Message::Put { number, record, expected });
                self.after(PUT_LATE, Happening::PutLate { proxy, number });
            }
            Effect::Act { node, stamp, action } => {
                self.note(|| format!("p{proxy} -> {node} {action:?} {stamp:?}"));
                self.send(from, Place::Node(node), Message::Act { stamp, action });
            }
        }
    }

    fn deliver(&mut self, from: Place, to: Place, message: Message) {
        match to {
            Place::Node(node) => {
                let Some(server) = self.nodes.get(&node) else { return };
                if server.paused_until > self.now {
                    let until = server.paused_until;
                    return self.at(until, Happening::Deliver { from, to, message });
                }
                self.at_node(node, from, message);
            }
            Place::Proxy(proxy) => {
                let until = self.proxies[proxy].paused_until;
                if until > self.now {
                    return self.at(until, Happening::Deliver { from, to, message });
                }
                self.at_proxy(proxy, from, message);
            }
            Place::Store => {
                if self.store_is_up {
                    self.at_store(from, message);
                }
            }
        }
    }

    fn session(&self, proxy: usize, node: NodeId) -> u64 {
        self.nodes[&node].life * 100_000 + self.proxies[proxy].reconnects.get(&node).copied().unwrap_or(0)
    }

    fn at_node(&mut self, node: NodeId, from: Place, message: Message) {
        let session = if let Place::Proxy(proxy) = from { self.session(proxy, node) } else { 0 };
        let now = self.now;
        let here = Place::Node(node);
        let Some(server) = self.nodes.get_mut(&node) else { return };
        let is_ready = server.is_up && server.starting_until <= now;
        match message {
            Message::Probe { number, asked } => {
                let answer = match (server.is_up, is_ready) {
                    (false, _) if server.is_wiped => Err(Failure::Empty),
                    (false, _) => Err(Failure::Refused),
                    (_, false) => Err(Failure::Starting),
                    _ => Ok(server.answer(now, session)),
                };
                self.send(here, from, Message::Answer { number, asked, answer });
            }
            // The agent beside the server does this, whether the server runs or not.
            Message::Act {
                stamp,
                action: action @ (Action::Rejoin { primary } | Action::Fill { primary } | Action::Copy { primary }),
            } => self.rejoin(node, from, stamp, primary, action),
            Message::Act { stamp, action } => {
                let outcome = if is_ready { server.act(stamp, &action, session) } else { Outcome::Failed };
                let acknowledged = server.acknowledge();
                self.acknowledged(node, acknowledged);
                if outcome != Outcome::Failed {
                    self.note(|| format!("{node}: {:?} {stamp:?}: {outcome:?}", action.kind()));
                }
                self.send(here, from, Message::Ended { stamp, action, outcome });
            }
            Message::Write { session: about, value } if is_ready && !server.in_recovery && about == session => {
                server.log.push((server.timeline, value));
                let acknowledged = server.acknowledge();
                self.acknowledged(node, acknowledged);
            }
            Message::Look { session: about } if is_ready && !server.in_recovery && about == session => {
                let upto = server.visible;
                let values: Vec<u64> = server.log[server.read.min(upto)..upto].iter().map(|entry| entry.1).collect();
                server.read = upto;
                self.judge.seen(values.into_iter());
            }
            Message::Pull { tag, length, last } if is_ready => {
                let Place::Node(standby) = from else { return };
                if server.log.get(length - 1) != Some(&last) {
                    return;
                }
                server.attached.insert(standby, (tag, length, now));
                let acknowledged = server.acknowledge();
                let entries: Vec<Entry> = server.log[length..].iter().take(20).copied().collect();
                self.acknowledged(node, acknowledged);
                self.send(here, from, Message::Wal { length, last, entries });
            }
            Message::Wal { length, last, entries } if is_ready && server.in_recovery => {
                let is_followed = server.following.map(|(node, _)| Place::Node(node)) == Some(from);
                if is_followed && server.log.len() == length && server.log.last() == Some(&last) {
                    server.log.extend(entries);
                    server.visible = server.log.len();
                    server.heard = Some(now);
                }
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, node: NodeId, acknowledged: Option<(Term, Vec<u64>)>) {
        if let Some((term, values)) = acknowledged {
            self.judge.acknowledged(node.0, term.0, &values);
        }
    }

    fn rejoin(&mut self, node: NodeId, from: Place, stamp: Stamp, primary: NodeId, action: Action) {
        let Place::Proxy(asker) = from else { return };
        let Some(server) = self.nodes.get_mut(&node) else { return };
        let has_data = matches!(action, Action::Fill { .. }) && !server.is_wiped;
        if stamp < server.promised || has_data {
            let outcome = Outcome::Refused { promised: server.promised };
            return self.send(Place::Node(node), from, Message::Ended { stamp, action, outcome });
        }
        server.promised = stamp;
        server.crash();
        server.is_wiped = true;
        server.log.clear();
        let takes = self.random.between(200_000, 2_000_000);
        self.note(|| format!("{node} is made anew"));
        self.after(takes, Happening::Rejoined { node, primary, stamp, asker, action });
    }

    fn rejoined(&mut self, node: NodeId, primary: NodeId, stamp: Stamp, asker: usize, action: Action) {
        // What it promised before may be gone with its data: it takes part only while that term is the last one.
        let asks = !self.cut.contains(&(Place::Node(node), Place::Store)) && self.store_is_up;
        let is_wanted = asks && self.record.term == stamp.term && self.record.is_led_by(primary);
        let is_copied = {
            let source = &self.nodes[&primary];
            let is_there = source.is_up && !source.in_recovery && source.promised.term == stamp.term;
            (is_there && (is_wanted || !self.asks_before_start)).then(|| (source.log.clone(), source.timeline))
        };
        let now = self.now;
        let Some(server) = self.nodes.get_mut(&node) else { return };
        if !server.is_wiped {
            return;
        }
        let outcome = if let Some((log, timeline)) = is_copied.filter(|_| server.promised == stamp) {
            let life = server.life;
            let promised = server.promised;
            *server = Node::new(node, primary);
            server.following = Some((primary, stamp.term));
            server.log = log;
            server.timeline = timeline;
            server.life = life;
            server.in_recovery = true;
            server.promised = promised;
            server.start(now, 1_000);
            Outcome::Done
        } else {
            Outcome::Failed
        };
        self.note(|| format!("{node} was made anew: {outcome:?}"));
        self.send(Place::Node(node), Place::Proxy(asker), Message::Ended { stamp, action, outcome });
    }

    fn pulls(&mut self, node: NodeId) {
        self.after(PULL_PAUSE, Happening::Pulls(node));
        let server = &self.nodes[&node];
        let is_awake = server.is_up && server.starting_until <= self.now && server.paused_until <= self.now;
        if let (true, Some((upstream, tag)), Some(last)) =
            (is_awake && server.in_recovery, server.following, server.log.last())
        {
            let message = Message::Pull { tag, length: server.log.len(), last: *last };
            self.send(Place::Node(node), Place::Node(upstream), message);
        }
    }

    fn at_proxy(&mut self, proxy: usize, from: Place, message: Message) {
        let event = match (from, message) {
            (Place::Node(node), Message::Answer { number, asked, answer }) => {
                if self.proxies[proxy].probes.get(&node) != Some(&number) {
                    return;
                }
                self.proxies[proxy].probes.remove(&node);
                match answer {
                    Ok(answer) => Event::Answered { node, asked, answer },
                    Err(failure) => Event::Failed { node, failure },
                }
            }
            (Place::Node(node), Message::Ended { stamp, action, outcome }) => {
                Event::Ended { node, kind: action.kind(), stamp, outcome }
            }
            (_, Message::Got { asked, record, revision }) => Event::Read { asked, record, revision },
            (_, Message::Changed { record, revision }) => Event::Record { record: *record, revision },
            (_, Message::PutDone { number, record, revision }) => {
                if self.proxies[proxy].put != Some(number) {
                    return;
                }
                self.proxies[proxy].put = None;
                match revision {
                    Some(revision) => Event::Written { record: *record, revision },
                    None => Event::NotWritten,
                }
            }
            (_, Message::Held(is_held)) => {
                let since = self.now;
                self.proxies[proxy].held_since = since;
                if is_held {
                    self.after(HOLD_LENGTH, Happening::HoldLate { proxy, since });
                }
                Event::Lease(is_held)
            }
            _ => return,
        };
        self.step(proxy, event);
    }

    fn at_store(&mut self, from: Place, message: Message) {
        let Place::Proxy(proxy) = from else { return };
        match message {
            Message::Get { asked } => {
                let (record, revision) = (self.record.clone(), self.revision);
                self.send(Place::Store, from, Message::Got { asked, record, revision });
            }
            Message::Put { number, record, expected } => {
                let is_written = expected == self.revision;
                if is_written {
                    self.revision += 1;
                    self.record = (*record).clone();
                    self.note(|| format!("store: {record:?}"));
                    self.look_at_record();
                    for other in (0..self.proxies.len()).filter(|other| *other != proxy) {
                        let message = Message::Changed { record: record.clone(), revision: self.revision };
                        self.send(Place::Store, Place::Proxy(other), message);
                    }
                }
                let revision = is_written.then_some(self.revision);
                self.send(Place::Store, from, Message::PutDone { number, record, revision });
            }
            Message::Hold => {
                let now = self.now;
                let is_free = self.lease.is_none_or(|(holder, until)| holder == proxy || until <= now);
                if is_free {
                    self.lease = Some((proxy, now + HOLD_LENGTH));
                }
                self.send(Place::Store, from, Message::Held(is_free));
            }
            _ => {}
        }
    }

    fn look_at_record(&mut self) {
        if self.record.phase == Phase::Open {
            let primary = self.record.primary;
            let log = &self.nodes[&primary].log;
            self.judge.opened(self.record.term.0, primary.0, log);
        }
    }

    fn clients(&mut self) {
        self.after(CLIENT_PAUSE, Happening::Clients);
        for proxy in 0..self.proxies.len() {
            if self.proxies[proxy].paused_until > self.now {
                continue;
            }
            let now = self.clock(proxy);
            if let Serving::Open { node, session, .. } = self.proxies[proxy].machine.serving(now) {
                let value = self.next_value;
                self.next_value += 1;
                let message =
                    if self.random.chance(70) { Message::Write { session, value } } else { Message::Look { session } };
                self.send(Place::Proxy(proxy), Place::Node(node), message);
            }
        }
    }

    /// Somebody wants a node to count no more, or to be made anew.
    pub fn set_aside(&mut self, proxy: usize, node: NodeId, aside: Option<Aside>) {
        self.note(|| format!("p{proxy}: {node} is set aside: {aside:?}"));
        self.step(proxy, Event::SetAside { node, aside });
    }

    /// Every node has everything that was acknowledged: the disk of one may go.
    pub fn is_whole(&self) -> bool {
        let primary = &self.nodes[&self.record.primary];
        self.record.phase == Phase::Open
            && self.record.next.is_none()
            && primary.is_primary()
            && self.nodes.values().all(|node| {
                node.is_up && !node.is_wiped && node.log.get(..primary.visible) == primary.log.get(..primary.visible)
            })
    }

    /// Somebody asks for a switchover.
    pub fn command(&mut self, proxy: usize, to: NodeId) {
        self.step(proxy, Event::Command(Cause::Planned { to: Some(to) }));
    }

    /// A proxy ends and starts again: it knows nothing.
    pub fn renew(&mut self, proxy: usize) {
        let members = self.nodes.keys().map(|node| Member { node: *node, zone: String::new(), priority: 0 }).collect();
        let settings = self.settings.clone();
        let held = &mut self.proxies[proxy];
        held.machine = Machine::new(settings, members);
        held.probes.clear();
        held.put = None;
        held.reconnects.values_mut().for_each(|count| *count += 1);
    }
}
