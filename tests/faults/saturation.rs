//! Many clients on few server connections: every reply belongs to its own request.
