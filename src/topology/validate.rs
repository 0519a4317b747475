//! What must hold of a topology. (in work)
