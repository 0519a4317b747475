//! The failover machine: a simulator with its own judge, and real servers.

mod simulator;
