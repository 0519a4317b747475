//! The consistent-hash ring that proposes ownership. (in work)
