//! Lines into a file or another writer.
