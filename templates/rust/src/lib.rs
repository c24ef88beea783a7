//! The wire contract for LLM serving over gRPC. The modules are the proto packages.

// Generated comments are Markdown of no particular tool, and generated enums hold what they must.
#![allow(clippy::all, rustdoc::all)]

