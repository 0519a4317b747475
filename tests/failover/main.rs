//! The failover machine: a simulator with its own judge, and real servers.

mod servers;
mod simulator;
mod up;
