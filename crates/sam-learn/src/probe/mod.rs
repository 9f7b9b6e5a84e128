//! Probing: how well do the frozen features of an encoder separate labelled classes?
//!
//! A falling loss proves little about features. Here they are extracted from labelled images, or from labelled objects (the
//! mean of the tokens under a mask), and classified by nearest neighbours and by a linear layer, as the literature of
//! self-supervised learning does (Wu 2018, arXiv 1805.01978; He 2021, arXiv 2111.06377, appendix A.1). Baselines are the same
//! network with random weights, and the pixels themselves.
//!
//! Nothing is random: equal inputs give equal results.

mod encoder;
mod features;
mod lbfgs;
mod logistic;
mod neighbours;
mod standardise;

pub use encoder::{FrozenEncoder, Pooling};
pub use features::{Dropped, ExtractOptions, Extracted, Features, LabelledFeatures, Labels, ProbeSet, extract};
pub use logistic::{LinearProbe, classify_by_logistic_regression, n_logistic_fits};
pub use neighbours::{Neighbours, classify_by_neighbours};
pub use standardise::standardised;
