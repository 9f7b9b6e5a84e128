//! The kinds of problems in data sets, each seen in practice, with severity and fix.
//!
//! Readers do not decide how to handle a bad object. They report a [`Finding`]; findings of error severity stop
//! [`crate::Source::sample`] unless the user chose to drop such objects, and `data check` collects all of them.

use serde::{Deserialize, Serialize};

/// Severity of a kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Training continues, but the data should be looked at.
    Warning,
    /// The data is ambiguous or cannot be read.
    Error,
}

/// One problem at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind of problem.
    pub kind: ProblemKind,
    /// The file, image or annotation.
    pub place: String,
    /// What was expected there and what was found.
    pub detail: String,
}

impl Finding {
    pub(crate) fn new(kind: ProblemKind, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, place: place.into(), detail: detail.into() }
    }

    /// Returns whether it stops a run.
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

/// The kinds of problems that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The annotations name an image that does not exist.
    ImageMissing,
    /// An image file that is empty, truncated, damaged or of an unknown format.
    ImageUnreadable,
    /// An image without annotations in a data set where every image needs them.
    ImageUnpaired,
    /// An image listed more than once, or two entries with one file.
    ImageListedTwice,
    /// An image outside the folder of the data set, named by a path or reached through a link.
    ImageOutside,
    /// The annotation names another image than the one with its own name.
    ImageNameDiffers,
    /// A label file without an image.
    LabelUnpaired,
    /// A label or annotation file that cannot be read.
    LabelUnreadable,
    /// More than one label file for one image.
    LabelsPerImage,
    /// A label image with colours or fractional values instead of ids.
    LabelNotIds,
    /// A label image whose edges are smoothed, so that they hold values that are no ids.
    LabelSmoothed,
    /// Image and annotation differ in size.
    SizeMismatch,
    /// The annotation refers to the stored pixels of an image with EXIF rotation.
    ExifSwapped,
    /// An image with EXIF rotation whose size does not tell which orientation was annotated.
    ExifRotated,
    /// An upper-case file extension, which other tools overlook.
    ExtensionCase,
    /// An annotation that violates the format.
    AnnotationUnreadable,
    /// An annotation of an image that is not listed.
    AnnotationOrphan,
    /// Two annotations with one id.
    AnnotationIdTwice,
    /// A class id that the data set does not list.
    CategoryUnknown,
    /// A class without objects in one part of the split.
    ClassAbsent,
    /// An annotation with a box or points only.
    NoMask,
    /// A mask without pixels.
    MaskEmpty,
    /// A mask below the minimum area at the model's scale.
    MaskTiny,
    /// A mask covering nearly the whole image.
    MaskHuge,
    /// Two nearly equal masks in one image.
    MaskTwice,
    /// A polygon with fewer than three points.
    PolygonShort,
    /// A NaN or infinite coordinate, or an odd number of coordinates.
    PolygonNotFinite,
    /// A polygon reaching outside the image.
    PolygonOutside,
    /// Polygons that are only bounding boxes.
    PolygonIsBox,
    /// Run lengths that do not fill the image, or a malformed RLE string.
    RleInvalid,
    /// Not a single object in the data set.
    NoObjects,
    /// Run lengths inside other text, such as Python's `b'...'`.
    RleWrapped,
    /// A caption that is no text.
    CaptionInvalid,
    /// All masks are marked as crowd.
    AllCrowd,
    /// A crowd region dropped on request.
    CrowdLeftOut,
    /// An instance id with many separate components.
    InstanceScattered,
    /// Label images with two values read as instance ids.
    BinaryAsInstance,
    /// The same image in two parts of the split.
    SameImageAcrossSplits,
    /// The same image more than once.
    SameImage,
    /// Float pixels between 0 and 1.
    PixelsNormalised,
    /// 16-bit values that only use the lowest bits, and look black in 8-bit RGB.
    PixelsDark,
    /// More than 8 bits per sample, of which 8-bit RGB keeps only a part.
    PixelsDeep,
}

impl ProblemKind {
    /// Returns the severity.
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
            | Self::LabelSmoothed
            | Self::SizeMismatch
            | Self::AnnotationUnreadable
            | Self::AnnotationOrphan
            | Self::CategoryUnknown
            | Self::PolygonNotFinite
            | Self::RleInvalid
            | Self::NoObjects
            | Self::SameImageAcrossSplits
            | Self::PixelsNormalised
            | Self::PixelsDark => Severity::Error,
            Self::ImageNameDiffers
            | Self::ImageOutside
            | Self::ExifSwapped
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
            | Self::RleWrapped
            | Self::CaptionInvalid
            | Self::AllCrowd
            | Self::CrowdLeftOut
            | Self::InstanceScattered
            | Self::BinaryAsInstance
            | Self::SameImage
            | Self::PixelsDeep => Severity::Warning,
        }
    }

    /// Returns whether an annotation with this finding yields no object.
    #[must_use]
    pub(crate) fn drops_object(self) -> bool {
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

    /// The suggested fix.
    #[must_use]
    pub fn fix(self) -> &'static str {
        match self {
            Self::ImageMissing => {
                "copy the image to one of the searched folders, or name its folder (images = \"...\")"
            }
            Self::ImageUnreadable => "download or export the file again",
            Self::ImageUnpaired => "add its labels under the same stem, or remove the image",
            Self::ImageListedTwice => "keep one entry per image; merging exports must renumber ids",
            Self::ImageOutside => "look at where it lies; `data convert` copies such images only when told",
            Self::ImageNameDiffers => "look at a preview; if masks are misplaced, correct imagePath",
            Self::LabelUnpaired => "add the image under the same stem, or remove the labels",
            Self::LabelUnreadable => "export the labels again, as PNG or TIFF for label images",
            Self::LabelsPerImage => "keep one label file per stem",
            Self::LabelNotIds => {
                "save one channel of ids (8- or 16-bit grey, or palette), never colours and never JPEG"
            }
            Self::LabelSmoothed => {
                "resize labels with nearest neighbour, or cut binary masks at half: labels = \"binary\""
            }
            Self::SizeMismatch => "annotate and train on the same files; resized copies need resized labels",
            Self::ExifSwapped => {
                "none needed, masks are rotated with the image; strip EXIF before annotating to be sure"
            }
            Self::ExifRotated => "look at a preview; if masks are misplaced, strip EXIF from the images",
            Self::ExtensionCase => "rename to the lower-case extension; other tools overlook such files",
            Self::AnnotationUnreadable => "export the annotation again",
            Self::AnnotationOrphan => "list its image, or remove the annotation",
            Self::AnnotationIdTwice => "renumber; evaluation by id would mix the two up",
            Self::CategoryUnknown => "list the class, or correct the annotation's class id",
            Self::ClassAbsent => "split again, or by group, so that each part has every class",
            Self::NoMask => "outline the object; a box is not ground truth for a mask",
            Self::MaskEmpty => "remove it or draw it again; it is dropped",
            Self::MaskTiny => "train on crops or tiles, or filter by minimum area",
            Self::MaskHuge => "check that it is an object and not the background",
            Self::MaskTwice => "remove one; it would count twice",
            Self::PolygonShort => "remove it; it encloses no area and is dropped",
            Self::PolygonNotFinite => "export again; look for NaN or a truncated list",
            Self::PolygonOutside => "check that image and annotation belong together; the part outside is clipped",
            Self::PolygonIsBox => "outline the object; training on boxes as masks predicts boxes",
            Self::RleInvalid => "check height and width (RLE is column-major) and export again",
            Self::NoObjects => "nothing can be learned from it; look for labels elsewhere, and at the other problems",
            Self::RleWrapped => "decode counts before writing JSON: counts.decode(\"ascii\") in Python",
            Self::CaptionInvalid => "write captions as text or lists of texts; other values are left out",
            Self::AllCrowd => "export masks with iscrowd = 0, or set crowd = \"instances\" or \"ignore\"",
            Self::CrowdLeftOut => "none needed with crowd = \"drop\"; its pixels are background",
            Self::InstanceScattered => "if ids are classes, set labels = \"semantic\"",
            Self::BinaryAsInstance => "set labels = \"binary\" so that each component is an object",
            Self::SameImageAcrossSplits => "keep an image in one part; validation on training images is meaningless",
            Self::SameImage => "remove the copies",
            Self::PixelsNormalised => {
                "choose an intensity policy, such as intensity = \"min_max\", or save 8-bit images"
            }
            Self::PixelsDark | Self::PixelsDeep => "choose an intensity policy, such as intensity = \"percentile\"",
        }
    }
}
