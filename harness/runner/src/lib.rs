//! Plan to interleaved boots and trials to events.
