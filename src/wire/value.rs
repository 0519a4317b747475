//! Values in text and binary format, as far as the merge must understand them. (in work)
