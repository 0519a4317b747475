//! Compact text form of plans, for EXPLAIN and the planner cases. (in work)
