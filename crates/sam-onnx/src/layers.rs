//! Operators and layers, written with the operators that the opset has.
//!
//! Layers take their weights from the current part of the network by name: `linear(x, "qkv")` reads `qkv.weight` and `qkv.bias`.

use crate::graph::{Arrangement, Attribute, DataType, Graph, Value};
use crate::storage::Role;

/// A square convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    /// As many kernels, each over as many parts of the channels.
    pub(crate) groups: usize,
}

/// Operators.
impl Graph<'_> {
    pub(crate) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], &[])
    }

    pub(crate) fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Sub", &[a, b], &[])
    }

    pub(crate) fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], &[])
    }

    pub(crate) fn div(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Div", &[a, b], &[])
    }

    pub(crate) fn scaled(&mut self, x: &Value, factor: f32) -> Value {
        let factor = self.number(factor);
        self.mul(x, &factor)
    }

    pub(crate) fn shifted(&mut self, x: &Value, term: f32) -> Value {
        let term = self.number(term);
        self.add(x, &term)
    }

    pub(crate) fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", &[a, b], &[])
    }

    pub(crate) fn reshape(&mut self, x: &Value, shape: &[usize]) -> Value {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let shape = self.ints(&shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// A reshape in which axis `inferred` takes what is left.
    pub(crate) fn reshape_inferring(&mut self, x: &Value, mut shape: Vec<i64>, inferred: usize) -> Value {
        shape[inferred] = -1;
        let shape = self.ints(&shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    pub(crate) fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.node("Transpose", &[x], &[Attribute::Ints("perm", order)])
    }

    pub(crate) fn concat(&mut self, parts: &[&Value], axis: i64) -> Value {
        self.node("Concat", parts, &[Attribute::Int("axis", axis)])
    }

    pub(crate) fn unsqueeze(&mut self, x: &Value, axis: i64) -> Value {
        let axis = self.ints(&[axis]);
        self.node("Unsqueeze", &[x, &axis], &[])
    }

    pub(crate) fn squeeze(&mut self, x: &Value, axis: i64) -> Value {
        let axis = self.ints(&[axis]);
        self.node("Squeeze", &[x, &axis], &[])
    }

    /// `x[.., start..end, ..]` along one axis.
    pub(crate) fn slice(&mut self, x: &Value, axis: i64, start: usize, end: usize) -> Value {
        let [start, end, axis] = [start as i64, end as i64, axis].map(|number| self.ints(&[number]));
        self.node("Slice", &[x, &start, &end, &axis], &[])
    }

    /// `x[.., starts[i]..ends[i], ..]` along several axes, where starts and ends are values.
    pub(crate) fn slice_between(&mut self, x: &Value, axes: &[i64], starts: &Value, ends: &Value) -> Value {
        let axes = self.ints(axes);
        self.node("Slice", &[x, starts, ends, &axes], &[])
    }

    /// `N` equal parts along an axis, each of `size`.
    pub(crate) fn split<const N: usize>(&mut self, x: &Value, axis: i64, size: usize) -> [Value; N] {
        let sizes = self.ints(&[size as i64; N]);
        self.nodes("Split", &[x, &sizes], &[Attribute::Int("axis", axis)])
    }

    pub(crate) fn cast(&mut self, x: &Value, to: DataType) -> Value {
        self.node("Cast", &[x], &[Attribute::Int("to", to as i64)])
    }

    pub(crate) fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", &[x], &[Attribute::Int("axis", -1)])
    }

    pub(crate) fn relu(&mut self, x: &Value) -> Value {
        self.node("Relu", &[x], &[])
    }

    /// `x / 2 (1 + erf(x / sqrt(2)))`, exact as in PyTorch.
    pub(crate) fn gelu(&mut self, x: &Value) -> Value {
        if self.opset.has_gelu() {
            return self.node("Gelu", &[x], &[]);
        }
        let scaled = self.scaled(x, std::f32::consts::FRAC_1_SQRT_2);
        let erf = self.node("Erf", &[&scaled], &[]);
        let cumulative = self.shifted(&erf, 1.0);
        let product = self.mul(x, &cumulative);
        self.scaled(&product, 0.5)
    }

    /// The largest value along an axis, which disappears.
    pub(crate) fn reduce_max(&mut self, x: &Value, axis: i64) -> Value {
        let keep = Attribute::Int("keepdims", 0);
        if self.opset.reduces_by_input() {
            let axes = self.ints(&[axis]);
            return self.node("ReduceMax", &[x, &axes], &[keep]);
        }
        self.node("ReduceMax", &[x], &[Attribute::Ints("axes", &[axis]), keep])
    }

    /// Bilinear resizing with half-pixel centres, as PyTorch's `align_corners=False`, to a size that is a value.
    pub(crate) fn resize(&mut self, x: &Value, sizes: &Value) -> Value {
        let none = Value::none();
        let attributes =
            [Attribute::Text("mode", "linear"), Attribute::Text("coordinate_transformation_mode", "half_pixel")];
        self.node("Resize", &[x, &none, &none, sizes], &attributes)
    }
}

/// Layers.
impl Graph<'_> {
    /// `x W + b`, or `x W` where there is no bias.
    ///
    /// # Shapes
    /// - `x`: `[.., in]`
    /// - returns `[.., out]`
    pub(crate) fn linear(&mut self, x: &Value, name: &str) -> Value {
        let weight = self.matrix(&format!("{name}.weight"));
        let product = self.matmul(x, &weight);
        let bias = format!("{name}.bias");
        if !self.has(&bias) {
            return product;
        }
        let bias = self.vector(&bias);
        self.add(&product, &bias)
    }

    /// Linear layers with ReLU between them: `layers.0`, `layers.1`, .. of `name`.
    pub(crate) fn mlp(&mut self, x: &Value, name: &str, depth: usize) -> Value {
        self.within(name, |graph| {
            let mut x = x.clone();
            for layer in 0..depth {
                x = graph.linear(&x, &format!("layers.{layer}"));
                if layer + 1 < depth {
                    x = graph.relu(&x);
                }
            }
            x
        })
    }

    /// Layer normalisation over the last axis.
    pub(crate) fn norm(&mut self, x: &Value, name: &str, eps: f32) -> Value {
        let [weight, bias] = ["weight", "bias"].map(|part| self.vector(&format!("{name}.{part}")));
        if self.opset.has_layer_normalization() {
            let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", eps)];
            return self.node("LayerNormalization", &[x, &weight, &bias], &attributes);
        }
        let mean = self.mean(x);
        let centred = self.sub(x, &mean);
        let square = self.mul(&centred, &centred);
        let variance = self.mean(&square);
        let variance = self.shifted(&variance, eps);
        let deviation = self.node("Sqrt", &[&variance], &[]);
        let normal = self.div(&centred, &deviation);
        let scaled = self.mul(&normal, &weight);
        self.add(&scaled, &bias)
    }

    /// Layer normalisation of a map over its channels.
    ///
    /// # Shapes
    /// - `x`: `[1, C, H, W]`
    /// - returns the same
    pub(crate) fn norm_2d(&mut self, x: &Value, name: &str, eps: f32) -> Value {
        let last = self.transpose(x, &[0, 2, 3, 1]);
        let normal = self.norm(&last, name, eps);
        self.transpose(&normal, &[0, 3, 1, 2])
    }

    /// A convolution, with a bias where there is one.
    ///
    /// # Shapes
    /// - `x`: `[1, in, H, W]`
    /// - returns `[1, out, H', W']`
    pub(crate) fn convolution(&mut self, x: &Value, name: &str, sizes: Convolution) -> Value {
        self.convolve(x, [&format!("{name}.weight"), &format!("{name}.bias")], Role::Kernel, sizes)
    }

    /// A convolution into which its batch norm is folded ([`sam_model::Sam::with_folded_norms`]).
    ///
    /// # Shapes
    /// - `x`: `[1, in, H, W]`
    /// - returns `[1, out, H', W']`
    pub(crate) fn folded_convolution(&mut self, x: &Value, name: &str, sizes: Convolution) -> Value {
        self.convolve(x, [&format!("{name}.c.weight"), &format!("{name}.bn.bias")], Role::FoldedKernel, sizes)
    }

    fn convolve(&mut self, x: &Value, keys: [&str; 2], role: Role, sizes: Convolution) -> Value {
        let Convolution { kernel, stride, padding, groups } = sizes;
        let attributes = [
            Attribute::Ints("kernel_shape", &[kernel as i64; 2]),
            Attribute::Ints("strides", &[stride as i64; 2]),
            Attribute::Ints("pads", &[padding as i64; 4]),
            Attribute::Int("group", groups as i64),
        ];
        self.with_kernel("Conv", x, keys, role, &attributes)
    }

    /// A transposed convolution that doubles height and width.
    ///
    /// # Shapes
    /// - `x`: `[1, in, H, W]`
    /// - returns `[1, out, 2H, 2W]`
    pub(crate) fn doubling(&mut self, x: &Value, name: &str) -> Value {
        let attributes = [Attribute::Ints("kernel_shape", &[2; 2]), Attribute::Ints("strides", &[2; 2])];
        let (kernel, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.with_kernel("ConvTranspose", x, [&kernel, &bias], Role::Kernel, &attributes)
    }

    fn with_kernel(
        &mut self,
        op: &'static str,
        x: &Value,
        [kernel, bias]: [&str; 2],
        role: Role,
        attributes: &[Attribute<'_>],
    ) -> Value {
        let arrangement = Arrangement { shape: self.shape(kernel), channels: 0, arrange: Box::new(|values| values) };
        let kernel = self.weight(kernel, role, arrangement);
        if !self.has(bias) {
            return self.node(op, &[x, &kernel], attributes);
        }
        let bias = self.vector(bias);
        self.node(op, &[x, &kernel, &bias], attributes)
    }

    /// A matrix, or a convolution of single pixels, to multiply rows with.
    ///
    /// # Shapes
    /// - in a checkpoint `[out, in]` or `[out, in, 1, 1]`
    /// - returns `[in, out]`
    pub(crate) fn matrix(&mut self, name: &str) -> Value {
        let shape = self.shape(name);
        let (rows, columns) = (shape[0], shape[1]);
        assert!(shape[2..].iter().all(|&size| size == 1), "`{name}` is no matrix: {shape:?}");
        let arrange = Box::new(move |values: Vec<f32>| transposed(&values, rows, columns));
        let arrangement = Arrangement { shape: vec![columns, rows], channels: 1, arrange };
        // A convolution stays one, whatever computes it.
        let role = if shape.len() == 2 { Role::Matrix { channels: 0 } } else { Role::Kernel };
        self.weight(name, role, arrangement)
    }

    /// A bias, or a weight of a norm.
    pub(crate) fn vector(&mut self, name: &str) -> Value {
        let arrangement = Arrangement { shape: self.shape(name), channels: 0, arrange: Box::new(|values| values) };
        self.weight(name, Role::Exact, arrangement)
    }

    fn mean(&mut self, x: &Value) -> Value {
        // Only before opset 17, where axes are an attribute.
        self.node("ReduceMean", &[x], &[Attribute::Ints("axes", &[-1])])
    }
}

/// A row-major matrix, transposed.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
