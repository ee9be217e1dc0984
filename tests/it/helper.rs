//! Tests of `helper`.
