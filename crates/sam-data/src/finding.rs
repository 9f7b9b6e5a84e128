//! What can be wrong with a data set: one kind per failure seen in the wild, with its severity and its fix.
//!
//! Readers do not decide what to do about a bad object. They report a [`Finding`]; an error-level finding stops
//! [`crate::Source::sample`] unless the user chose to drop such objects, and `data check` collects all of them.

use serde::{Deserialize, Serialize};

/// How bad a kind of problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Training goes on, but somebody should look.
    Warning,
    /// The data does not say what it means, or cannot be read.
    Error,
}

/// One thing that is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of problem.
    pub kind: ProblemKind,
    /// The file, image or annotation.
    pub place: String,
    /// What was expected there and what came.
    pub detail: String,
}

impl Finding {
    pub(crate) fn new(kind: ProblemKind, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, place: place.into(), detail: detail.into() }
    }

    /// Whether it is of a kind that stops a run.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind.severity() == Severity::Error
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.detail)
    }
}

/// Every kind of problem that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The annotations name an image that is not there.
    ImageMissing,
    /// An image that is empty, cut off, damaged or of an unknown kind.
    ImageUnreadable,
    /// An image without annotations where each must have some.
    ImageUnpaired,
    /// One image is listed more than once.
    ImageListedTwice,
    /// Labels without an image.
    LabelUnpaired,
    /// A label file or annotation file that cannot be read.
    LabelUnreadable,
    /// More than one label file for one image.
    LabelsPerImage,
    /// A label image whose pixels are colours or fractions, not ids.
    LabelNotIds,
    /// Image and annotation differ in size.
    SizeMismatch,
    /// The annotation is of the unrotated pixels of an image with EXIF rotation.
    ExifSwapped,
    /// An image with EXIF rotation where sizes do not tell which pixels were annotated.
    ExifRotated,
    /// An extension in capitals that other tools overlook, or that differs from the annotation's.
    ExtensionCase,
    /// An annotation that is not of the format.
    AnnotationUnreadable,
    /// An annotation of an image that is not listed.
    AnnotationOrphan,
    /// Two annotations with one id.
    AnnotationIdTwice,
    /// A class that the data set does not list.
    CategoryUnknown,
    /// A class without a single object in a part of the split.
    ClassAbsent,
    /// An annotation with a box or points only.
    NoMask,
    /// A mask without a pixel.
    MaskEmpty,
    /// A mask below the minimum area at the model's scale.
    MaskTiny,
    /// A mask of nearly the whole image.
    MaskHuge,
    /// Two masks of one image that are almost the same.
    MaskTwice,
    /// A polygon of fewer than three points.
    PolygonShort,
    /// A coordinate that is no number, or a list without the last y.
    PolygonNotFinite,
    /// A polygon that leaves the image.
    PolygonOutside,
    /// A polygon that is only its box.
    PolygonIsBox,
    /// Runs that do not fill the image, or a string that is no RLE.
    RleInvalid,
    /// All masks are marked as crowd.
    AllCrowd,
    /// A crowd region that was left out on request.
    CrowdLeftOut,
    /// One instance id in many parts that lie apart.
    InstanceScattered,
    /// Label images of two values read as instance ids.
    BinaryAsInstance,
    /// The same picture in two parts of the split.
    SameImageAcrossSplits,
    /// The same picture more than once.
    SameImage,
    /// Float pixels between 0 and 1.
    PixelsNormalised,
    /// More than 8 bits per sample, of which the 8-bit picture keeps little.
    PixelsDeep,
}

impl ProblemKind {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::ImageMissing
            | Self::ImageUnreadable
            | Self::ImageUnpaired
            | Self::ImageListedTwice
            | Self::LabelUnpaired
            | Self::LabelUnreadable
            | Self::LabelsPerImage
            | Self::LabelNotIds
            | Self::SizeMismatch
            | Self::AnnotationUnreadable
            | Self::AnnotationOrphan
            | Self::CategoryUnknown
            | Self::PolygonNotFinite
            | Self::RleInvalid
            | Self::SameImageAcrossSplits
            | Self::PixelsNormalised => Severity::Error,
            Self::ExifSwapped
            | Self::ExifRotated
            | Self::ExtensionCase
            | Self::AnnotationIdTwice
            | Self::ClassAbsent
            | Self::NoMask
            | Self::MaskEmpty
            | Self::MaskTiny
            | Self::MaskHuge
            | Self::MaskTwice
            | Self::PolygonShort
            | Self::PolygonOutside
            | Self::PolygonIsBox
            | Self::AllCrowd
            | Self::CrowdLeftOut
            | Self::InstanceScattered
            | Self::BinaryAsInstance
            | Self::SameImage
            | Self::PixelsDeep => Severity::Warning,
        }
    }

    /// Whether an annotation with this finding gives no object.
    #[must_use]
    pub(crate) fn leaves_out(self) -> bool {
        match self {
            Self::PolygonShort
            | Self::PolygonOutside
            | Self::ImageUnpaired
            | Self::ImageListedTwice
            | Self::LabelsPerImage => false,
            Self::NoMask | Self::MaskEmpty | Self::CrowdLeftOut => true,
            _ => self.severity() == Severity::Error,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(self) -> &'static str {
        match self {
            Self::ImageMissing => {
                "copy the image to one of the places looked at, or name its folder (images = \"...\")"
            }
            Self::ImageUnreadable => "fetch or export the file again",
            Self::ImageUnpaired => "add its labels under the same stem, or remove the image",
            Self::ImageListedTwice => "keep one entry per image; merging exports must renumber ids",
            Self::LabelUnpaired => "add the image under the same stem, or remove the labels",
            Self::LabelUnreadable => "export the labels again, as PNG or TIFF for label images",
            Self::LabelsPerImage => "keep one label file per stem",
            Self::LabelNotIds => {
                "save one channel of ids (8- or 16-bit grey, or palette), never colours and never JPEG"
            }
            Self::SizeMismatch => "annotate and train on the same files; resized copies need resized labels",
            Self::ExifSwapped => "nothing, masks are rotated with the image; strip EXIF before annotating to be sure",
            Self::ExifRotated => "look at a preview; if masks lie wrong, strip EXIF from the images",
            Self::ExtensionCase => "rename to the lower-case extension; other tools overlook such files",
            Self::AnnotationUnreadable => "export the annotation again",
            Self::AnnotationOrphan => "list its image, or remove the annotation",
            Self::AnnotationIdTwice => "renumber; evaluation by id would mix the two up",
            Self::CategoryUnknown => "list the class, or correct the annotation's class id",
            Self::ClassAbsent => "split again, or by group, so that each part has every class",
            Self::NoMask => "outline the object; a box is no ground truth for a mask",
            Self::MaskEmpty => "remove it or draw it again; it is left out",
            Self::MaskTiny => "train on crops or tiles, or filter by minimum area",
            Self::MaskHuge => "check that it is an object and not the background",
            Self::MaskTwice => "remove one; it would be counted twice",
            Self::PolygonShort => "remove it; it encloses nothing and is left out",
            Self::PolygonNotFinite => "export again; look for NaN or a cut-off list",
            Self::PolygonOutside => "check that image and annotation belong together; the outside is cut off",
            Self::PolygonIsBox => "outline the object; boxes as masks teach boxes",
            Self::RleInvalid => "check height and width (RLE is column-major) and export again",
            Self::AllCrowd => "export masks with iscrowd = 0, or set crowd = \"instances\" or \"ignore\"",
            Self::CrowdLeftOut => "nothing, crowd = \"drop\" asks for it; its pixels are background",
            Self::InstanceScattered => "if ids are classes, set labels = \"semantic\"",
            Self::BinaryAsInstance => "set labels = \"binary\" so that each component is an object",
            Self::SameImageAcrossSplits => "keep a picture in one part; validation on training images says nothing",
            Self::SameImage => "remove the copies",
            Self::PixelsNormalised => {
                "choose an intensity policy, such as intensity = \"min_max\", or save 8-bit images"
            }
            Self::PixelsDeep => "choose an intensity policy, such as intensity = \"percentile\"",
        }
    }
}
