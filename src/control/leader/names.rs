//! Nodes as PostgreSQL knows them: by tags in `application_name` and in `synchronous_standby_names`.
//!
//! A standby streams as `<node>_t<term>`. One that was attached under another term counts for nothing, whoever
//! attached it (rule 5).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{NodeId, Term};
use crate::failover::SyncSet;

/// What a fenced primary waits for: a standby of this name never comes.
pub const FENCED: &str = "ostrakon_fenced";
/// Stands for the members of a set that has none.
const NOBODY: &str = "ostrakon_nobody";

/// Names of the nodes of a shard.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_node: BTreeMap<NodeId, String>,
}

impl Names {
    /// These nodes.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        Self { by_node: nodes.into_iter().collect() }
    }

    /// The node's tag of a term.
    pub fn tag(&self, node: NodeId, term: Term) -> String {
        let name = self.by_node.get(&node).map_or("ostrakon_unknown", String::as_str);
        format!("{name}_t{}", term.0)
    }

    /// The name of the node's slot; PostgreSQL takes lower case, digits and underscores. `None`: no such node.
    pub fn slot(&self, node: NodeId) -> Option<String> {
        self.by_node.get(&node).map(|name| slot_of(name))
    }

    /// Whose tag it is, and of which term.
    pub fn read_tag(&self, tag: &str) -> Option<(NodeId, Term)> {
        let (name, term) = tag.rsplit_once("_t")?;
        let (node, _) = self.by_node.iter().find(|(_, known)| *known == name)?;
        Some((*node, Term(term.parse().ok()?)))
    }

    /// `synchronous_standby_names` of a set.
    pub fn write_set(&self, term: Term, set: &SyncSet) -> String {
        if set.quorum == 0 {
            return String::new();
        }
        let mut tags: Vec<String> = set.members.iter().map(|node| format!("\"{}\"", self.tag(*node, term))).collect();
        if tags.is_empty() {
            tags.push(format!("\"{NOBODY}_t{}\"", term.0));
        }
        format!("ANY {} ({})", set.quorum, tags.join(","))
    }

    /// The set that `synchronous_standby_names` means, and its term (`default` where it names none); `None`: it is
    /// none of ours.
    pub fn read_set(&self, text: &str, default: Term) -> Option<(Term, SyncSet)> {
        if text.is_empty() {
            return Some((default, SyncSet::default()));
        }
        let (quorum, list) = text.strip_prefix("ANY ")?.split_once(" (")?;
        let mut members = BTreeSet::new();
        let mut term = None;
        for tag in list.strip_suffix(')')?.split(',').map(|tag| tag.trim().trim_matches('"')) {
            let of = match tag.strip_prefix(NOBODY) {
                Some(rest) => Term(rest.strip_prefix("_t")?.parse().ok()?),
                None => {
                    let (node, of) = self.read_tag(tag)?;
                    members.insert(node);
                    of
                }
            };
            if term.is_some_and(|term| term != of) {
                return None;
            }
            term = Some(of);
        }
        Some((term?, SyncSet { members, quorum: quorum.parse().ok()? }))
    }
}

/// The name of the slot of a node.
pub fn slot_of(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new([(NodeId(1), "s1a".to_owned()), (NodeId(2), "s1-b_t2".to_owned())])
    }

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let names = names();
        for (members, quorum) in [(vec![], 0), (vec![], 1), (vec![1], 1), (vec![1, 2], 1), (vec![1, 2], 2)] {
            let set = SyncSet { members: members.into_iter().map(NodeId).collect(), quorum };
            let text = names.write_set(Term(7), &set);
            assert_eq!(names.read_set(&text, Term(7)), Some((Term(7), set)), "{text}");
        }
    }

    #[test]
    fn who_is_not_known_has_no_slot() {
        assert_eq!(names().slot(NodeId(2)).as_deref(), Some("s1_b_t2"));
        assert_eq!(names().slot(NodeId(3)), None);
    }

    #[test]
    fn what_is_not_ours_means_nothing() {
        for text in
            ["*", "ANY 1 (ostrakon_fenced)", "ANY 1 (\"s1a_t1\",\"s1-b_t2_t2\")", "FIRST 1 (a)", "ANY 1 (other_t1)"]
        {
            assert_eq!(names().read_set(text, Term(1)), None, "{text}");
        }
    }
}
