//! Tests of `leaks`.
