//! The project's one integration test binary: whole paths, against the reference's numbers and through the real program.
//! Single functions are tested in their own files.

mod annotate_cli; // annotate through the real program: a project, clicks, kills, and who is turned away
mod annotate_data_cli; // annotate export and import: what leaves a project, what comes in, and never twice
mod annotate_text_cli; // texts in the annotator: prompts, refinement by clicks, models with and without texts
mod auto_cli; // auto through the real program: formats, resume, thresholds moved, bad input
mod automatic; // automatic masks equal those of the official generator
mod bench_cli; // bench: the phases of a step
mod block; // a block of vit_b's size equals the official one
mod browser; // the annotator's page in a real browser
mod cache_cli; // embeddings of a frozen encoder on disk: cached = uncached, interrupted, stale, damaged, full disk
mod cli; // the real binary in a fresh folder, bad input included
mod clip; // CLIP's vectors equal those of transformers and open_clip
mod config_cli; // one configuration for every task: --check, --force, errors
mod console_cli; // what a run prints, and its log.txt
mod consumers; // other people's programs read what we write
mod data_cli; // data check, preview, convert, split and synth through the real program
mod distil_cli; // a student and its teacher through the real program: embeddings, masks, resume, cache, bad input
mod eval_cli; // eval through the real program: files, gate, comparison, detections, bad input
mod evaluation; // protocols over our own predictor, as a training run's validation plays them
mod faults; // fault injection: kills, damage, full disks, two processes, mutated input
mod fixture; // the committed files and how to compare
mod golden; // every output equals the official package's
mod gradients; // so does every gradient
mod hostile_cli; // pipes, devices, bombs and huge numbers in every option
mod house; // the code map is true: dependencies point down, named files exist
mod init_cli; // from a folder to a better checkpoint in three commands
mod learning; // a whole training step equals PyTorch's
mod lora; // low-rank adapters: PEFT's and SAMed's numbers, runs, the real program
mod losses_cli; // what the data loses, in every command; sets without objects
mod mae; // the masked autoencoder equals PyTorch, and initialises a segmenter
#[cfg(unix)]
mod objects_cli; // objects_per_step = "auto": the process that trains is watched by another
mod onnx; // ONNX graphs, run by another program, give the official numbers and ours
mod onnx_cli; // export --format onnx through the real program: files, options, annotators, bad input
mod precision; // matrix products of bf16 are near those of f32
mod predict_cli; // predict on several images: prompts from files, formats
mod pretrain_cli; // pre-training through the real program
mod pretraining; // whole pre-trainings: reproduce, resume, accumulate, learn
mod probe; // features are what they should be, and their classifiers those of scikit-learn
mod probe_cli; // probe through the real program: classes, parts, baselines, bad input
mod ranks; // several ranks compute the run of one
mod ranks_cli; // several devices through the real program
#[cfg(all(feature = "mpi", target_os = "linux"))]
mod ranks_mpi_cli; // several processes through mpirun and the real program
mod resume_cli; // what changed around a run before it is resumed; a run at a terminal
mod rounds_cli; // the data engine: rounds, proposals, automatic masks, kills
mod runs_cli; // lists and comparisons of runs
mod sources_cli; // several data sets as training data
mod text; // a vector of CLIP as a prompt equals PyTorch; the file beside a checkpoint
mod text_auto_cli; // texts that choose among the masks of `auto`
mod text_cli; // trainings with texts and predict --text through the real program, bad input
mod text_eval_cli; // eval --text through the real program: texts of data as prompts, gate, comparison, bad input
mod tiny_vit; // TinyViT equals MobileSAM's own package; its files and those of timm
mod tiny_vit_cli; // MobileSAM's encoder through the real program: every command, batch norms, bad input
mod train_cli; // --config and --resume through the real program
mod training_behaviour; // drop path and dropout act while training only
mod training_runs; // whole runs: reproduce, resume, accumulate, overfit
mod weights; // every layout read and written, strictly
mod zero_shot_cli; // eval --task proposals and edges, several sets, through the real program
