//! Numbers for burn-train's terminal view.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
};

use crate::trainee::Shown;

const DIGITS: usize = 4;

/// One of the values of [`Shown`].
#[derive(Clone)]
pub(crate) struct ShownMetric {
    name: MetricName,
    higher_is_better: bool,
    state: NumericMetricState,
}

impl ShownMetric {
    pub(crate) fn new(name: &str, higher_is_better: bool) -> Self {
        Self { name: Arc::new(name.to_owned()), higher_is_better, state: NumericMetricState::new() }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(Arc::clone(&self.name)).precision(DIGITS)
    }
}

impl Metric for ShownMetric {
    type Input = Shown;

    fn name(&self) -> MetricName {
        Arc::clone(&self.name)
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: self.higher_is_better }.into()
    }

    fn update(&mut self, item: &Shown, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        if let Some(&(_, value)) = item.0.iter().find(|(name, _)| *name == self.name.as_str()) {
            self.state.update(value, 1);
        }
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for ShownMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
