//! Rows of COPY data: where they end, and the fields that hold the sharding key. (in work)
