//! Tests of `integration`.
