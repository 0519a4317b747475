//! What is known of key columns within one query level: which are equal, which are constants.
//!
//! A fact holds for every row that survives the level's conjunctions. A level's knowledge begins with that of the
//! level round it and is never handed outwards.

use std::collections::HashMap;

use crate::plan::{KeyPart, KeyTuple, Slot};
use crate::topology::KeyType;

/// A column of one row source of the statement.
pub type Node = usize;

/// `column = constant`; the type says how the constant is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Assign {
    /// The column.
    pub node: Node,
    /// The constant.
    pub slot: Slot,
    /// The type that the comparison takes place in.
    pub key_type: KeyType,
    /// The constant is an array, and the column is one of its elements.
    pub is_array: bool,
}

/// One of these conjunctions holds.
pub type Fact = Vec<Vec<Assign>>;

/// Something to be learned.
#[derive(Clone, Debug)]
pub enum Learned {
    /// Two columns are equal and not NULL.
    Equal(Node, Node),
    /// One of several conjunctions holds.
    Fact(Fact),
}

/// More alternatives than this are not followed: the statement then has no key restriction.
const ALTERNATIVES_MAX: usize = 4_096;

/// Knowledge of one query level.
#[derive(Clone, Debug, Default)]
pub struct Env {
    parent: HashMap<Node, Node>,
    facts: Vec<Fact>,
    /// The first is NULL or equal to the second: columns of the inner side of an outer join.
    weak: Vec<(Node, Node)>,
}

impl Env {
    /// Learns all of these.
    pub fn learn(&mut self, learned: &[Learned]) {
        for item in learned {
            match item {
                Learned::Equal(left, right) => {
                    let (left, right) = (self.strong(*left), self.strong(*right));
                    if left != right {
                        self.parent.insert(left, right);
                    }
                }
                Learned::Fact(fact) => self.facts.push(fact.clone()),
            }
        }
    }

    /// Learns that a column is NULL or equal to another.
    pub fn learn_weak(&mut self, node: Node, anchor: Node) {
        self.weak.push((node, anchor));
    }

    /// The class of columns that equal this one in every row.
    pub fn strong(&self, node: Node) -> Node {
        let mut node = node;
        while let Some(parent) = self.parent.get(&node) {
            node = *parent;
        }
        node
    }

    /// The class of columns that equal this one in every row in which it is not NULL. Only for equalities that reject NULLs.
    pub fn class(&self, node: Node) -> Node {
        let mut class = self.strong(node);
        for _ in 0..=self.weak.len() {
            match self.weak.iter().find(|(weak, _)| self.strong(*weak) == class) {
                Some((_, anchor)) if self.strong(*anchor) != class => class = self.strong(*anchor),
                _ => break,
            }
        }
        class
    }

    /// True when the columns are equal pairwise.
    pub fn colocated(&self, left: &[Node], right: &[Node]) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| self.class(*left) == self.class(*right))
    }

    /// The keys that these columns are restricted to.
    pub fn restriction(&self, vector: &[Node]) -> Option<Vec<KeyTuple>> {
        let classes: Vec<Node> = vector.iter().map(|node| self.class(*node)).collect();
        let part = |alternative: &[Assign], class: Node| {
            alternative.iter().find(|assign| self.class(assign.node) == class).map(|assign| KeyPart {
                slot: assign.slot.clone(),
                key_type: assign.key_type,
                is_array: assign.is_array,
            })
        };
        let whole = |fact: &Fact| -> Option<Vec<KeyTuple>> {
            fact.iter()
                .map(|alternative| {
                    let parts: Option<Vec<KeyPart>> = classes.iter().map(|class| part(alternative, *class)).collect();
                    parts.map(|parts| KeyTuple { parts })
                })
                .collect()
        };
        // An array has as many alternatives as it has elements: a constant says more.
        let has_array = |tuples: &[KeyTuple]| tuples.iter().flat_map(|tuple| &tuple.parts).any(|part| part.is_array);
        let best_whole = self.facts.iter().filter_map(whole).min_by_key(|tuples| (has_array(tuples), tuples.len()));
        let by_column = || -> Option<Vec<KeyTuple>> {
            let mut tuples = vec![KeyTuple { parts: Vec::new() }];
            for class in &classes {
                let column = self
                    .facts
                    .iter()
                    .filter_map(|fact| fact.iter().map(|alternative| part(alternative, *class)).collect())
                    .min_by_key(|parts: &Vec<KeyPart>| (parts.iter().any(|part| part.is_array), parts.len()))?;
                if tuples.len().saturating_mul(column.len()) > ALTERNATIVES_MAX {
                    return None;
                }
                tuples = tuples
                    .iter()
                    .flat_map(|tuple| {
                        column.iter().map(|part| {
                            let mut parts = tuple.parts.clone();
                            parts.push(part.clone());
                            KeyTuple { parts }
                        })
                    })
                    .collect();
            }
            Some(tuples)
        };
        match best_whole {
            Some(whole) if whole.len() <= 1 || vector.len() == 1 => Some(whole),
            Some(whole) => by_column().filter(|tuples| tuples.len() < whole.len()).or(Some(whole)),
            None => by_column(),
        }
    }

    /// Facts as they look from outside a subquery: `outer` maps a class of this level to a column of the outer one.
    pub fn export(&self, outer: &dyn Fn(Node) -> Option<Node>) -> Vec<Learned> {
        self.facts
            .iter()
            .filter_map(|fact| {
                fact.iter()
                    .map(|alternative| {
                        let kept: Vec<Assign> = alternative
                            .iter()
                            .filter_map(|assign| {
                                outer(self.strong(assign.node)).map(|node| Assign { node, ..assign.clone() })
                            })
                            .collect();
                        (!kept.is_empty()).then_some(kept)
                    })
                    .collect::<Option<Fact>>()
            })
            .map(Learned::Fact)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(node: Node, params: &[u32]) -> Learned {
        let assign =
            |param: &u32| vec![Assign { node, slot: Slot::Param(*param), key_type: KeyType::Int8, is_array: false }];
        Learned::Fact(params.iter().map(assign).collect())
    }

    #[test]
    fn a_constant_restricts_every_column_of_its_class() {
        let mut env = Env::default();
        env.learn(&[Learned::Equal(1, 2), Learned::Equal(2, 3), fact(3, &[1])]);
        assert_eq!(env.restriction(&[1]).map(|keys| keys.len()), Some(1));
        assert_eq!(env.restriction(&[4]), None);
    }

    #[test]
    fn composite_keys_combine_single_restrictions() {
        let mut env = Env::default();
        env.learn(&[fact(1, &[1, 2]), fact(2, &[3, 4])]);
        assert_eq!(env.restriction(&[1, 2]).map(|keys| keys.len()), Some(4));
        assert_eq!(env.restriction(&[1, 3]), None);
    }

    #[test]
    fn a_weak_class_leads_to_its_anchor_only_one_way() {
        let mut env = Env::default();
        env.learn_weak(2, 1);
        assert!(env.colocated(&[1], &[2]));
        assert_ne!(env.strong(1), env.strong(2));
        let mut two = Env::default();
        two.learn_weak(3, 1);
        two.learn_weak(3, 2);
        assert!(!two.colocated(&[1], &[2]));
    }
}
