//! What frozen features tell: does an encoder see what a person has named, without learning another thing?
//!
//! A loss that falls proves little of features. Here they are taken of labelled images, or of labelled objects (the mean of
//! the tokens under a mask), and two plain classifiers say how well classes can be told by them: the nearest neighbours
//! ([`neighbours`]) and a linear layer ([`logistic`]), as the literature of self-supervised learning has it (Wu 2018, arXiv
//! 1805.01978; He 2021, arXiv 2111.06377, appendix A.1). The same of random weights and of the pixels themselves are what a
//! number is to be compared with.
//!
//! Nothing is drawn: equal input gives equal answers.

pub mod encoder;
pub mod features;
mod lbfgs;
pub mod logistic;
pub mod neighbours;
pub mod standardise;

pub use encoder::{FrozenEncoder, Pooling};
pub use features::{ExtractOptions, Extracted, Features, Labels, LeftOut, ProbePart, extract};
pub use logistic::{LinearProbe, classify_by_logistic_regression};
pub use neighbours::{Neighbours, classify_by_neighbours};
pub use standardise::standardised;
