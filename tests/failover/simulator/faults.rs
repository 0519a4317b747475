//! What goes wrong.

use ostrakon::base::NodeId;
use ostrakon::failover::Aside;

use super::world::{Happening, Place, World};

impl World {
    /// One fault, and the next one later, until it is calm.
    pub fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let next = self.random.between(50_000, 2_500_000);
        self.after(next, Happening::Fault);
        let node = NodeId(self.random.between(1, self.nodes.len() as u64 + 1) as u32);
        let proxy = self.random.between(0, self.proxies.len() as u64) as usize;
        // The primary more often than chance has it.
        let node = if self.random.chance(40) { self.record.primary } else { node };
        let long = self.random.between(50_000, 6_000_000);
        match self.random.between(0, 15) {
            0..=2 => self.crash(node, long),
            3 => self.pause_node(node, long),
            4 => {
                let until = self.now + long;
                self.proxies[proxy].paused_until = until;
                self.note(|| format!("p{proxy} is paused"));
                self.at(until, Happening::Wake(proxy));
            }
            5 => self.isolate(Place::Node(node), long),
            6 => self.isolate(Place::Proxy(proxy), long),
            7 => {
                let from = self.any_place();
                let to = self.any_place();
                self.cut_for(from, to, long);
            }
            8 => {
                self.store_is_up = false;
                self.note(|| "the store is down".to_owned());
                self.after(long, Happening::StoreBack);
            }
            9 => {
                self.slowness = self.random.between(2, 200);
                self.after(long, Happening::Calm);
            }
            10 => {
                // A monotonic clock goes on too far when a machine was asleep; back only in another life.
                let jump = self.random.between(0, 20_000_000) as i64;
                self.note(|| format!("p{proxy}: its clock jumps"));
                if self.random.chance(50) {
                    self.proxies[proxy].skew = jump - 10_000_000;
                    self.renew(proxy);
                } else {
                    self.proxies[proxy].skew += jump;
                }
            }
            11 | 12 => self.wipe(node),
            13 => {
                let aside = if self.random.chance(60) { Aside::Renewed } else { Aside::Leaving };
                let aside = Some(aside).filter(|_| !self.record.aside.contains_key(&node));
                self.set_aside(proxy, node, aside);
            }
            _ => self.command(proxy, node),
        }
    }

    fn crash(&mut self, node: NodeId, long: u64) {
        self.note(|| format!("{node} crashes"));
        if let Some(server) = self.nodes.get_mut(&node).filter(|server| server.is_up) {
            server.crash();
            let back = if self.random.chance(30) { 1_000 } else { long };
            self.after(back, Happening::Restart(node));
        }
    }

    /// One at a time: with the disk of a second one what was acknowledged may be gone for good.
    fn wipe(&mut self, node: NodeId) {
        if node == self.record.primary || !self.is_whole() {
            return;
        }
        self.note(|| format!("{node}: its disk is wiped"));
        if let Some(server) = self.nodes.get_mut(&node) {
            server.wipe();
        }
    }

    fn pause_node(&mut self, node: NodeId, long: u64) {
        self.note(|| format!("{node} is paused"));
        let until = self.now + long;
        if let Some(server) = self.nodes.get_mut(&node) {
            server.paused_until = until;
        }
    }

    fn places(&self) -> Vec<Place> {
        let nodes = self.nodes.keys().map(|node| Place::Node(*node));
        let proxies = (0..self.proxies.len()).map(Place::Proxy);
        nodes.chain(proxies).chain([Place::Store]).collect()
    }

    fn any_place(&mut self) -> Place {
        let places = self.places();
        places[self.random.between(0, places.len() as u64) as usize]
    }

    fn isolate(&mut self, place: Place, long: u64) {
        let is_one_way = self.random.chance(30);
        for other in self.places() {
            // Some are still reached, so that views differ.
            if other != place && self.random.chance(85) {
                self.cut_for(place, other, long);
                if !is_one_way {
                    self.cut_for(other, place, long);
                }
            }
        }
    }

    fn cut_for(&mut self, from: Place, to: Place, long: u64) {
        self.note(|| format!("cut {from:?} -> {to:?}"));
        self.cut.insert((from, to));
        self.after(long, Happening::Mend(from, to));
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.note(|| "all is well".to_owned());
        self.is_calm = true;
        self.store_is_up = true;
        self.slowness = 1;
        self.cut.clear();
        for proxy in 0..self.proxies.len() {
            self.proxies[proxy].paused_until = 0;
            self.after(1, Happening::Wake(proxy));
        }
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            if let Some(server) = self.nodes.get_mut(&node) {
                server.paused_until = 0;
            }
            self.restart(node);
        }
    }
}
