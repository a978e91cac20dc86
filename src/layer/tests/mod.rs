//! Tests of both kinds of tree.

mod same;
