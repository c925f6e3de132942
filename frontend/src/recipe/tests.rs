use super::*;

fn read(json: &str) -> Result<Recipe, Diagnostics> {
    Recipe::from_json(json.as_bytes())
}

/// A recipe with some fields besides loss and optimizer.
fn with(fields: &str) -> String {
    format!(r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "sgd", "lr": 0.1}}{fields}}}"#)
}

fn optimizer(json: &str) -> Result<Optimizer, Diagnostics> {
    read(&format!(r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {json}}}"#)).map(|r| r.optimizer)
}

#[test]
fn defaults_are_pytorchs() {
    let sgd = Optimizer::Sgd { lr: 1e-3, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    assert_eq!(optimizer(r#"{"kind": "sgd"}"#).unwrap(), sgd);
    let betas = [Beta(0.9), Beta(0.999)];
    let adam = Optimizer::Adam { lr: 1e-3, betas, eps: 1e-8, weight_decay: 0.0 };
    assert_eq!(optimizer(r#"{"kind": "adam"}"#).unwrap(), adam);
    let adamw = Optimizer::Adamw { lr: 1e-3, betas, eps: 1e-8, weight_decay: 1e-2 };
    assert_eq!(optimizer(r#"{"kind": "adamw"}"#).unwrap(), adamw);
    let recipe = read(&with("")).unwrap();
    assert_eq!(recipe.loss, Loss { kind: LossKind::Mse {}, prediction: "y".into(), target: "target".into() });
    assert_eq!(recipe.trainable, None);
    assert_eq!(recipe.accumulate.get(), 1);
    assert_eq!((recipe.batch_norm, recipe.last_batch), (BatchNorm::File, LastBatch::Drop));
    assert_eq!(recipe.schedule, Schedule { kind: ScheduleKind::Constant, warmup_steps: 0 });
}

#[test]
fn every_field_is_read() {
    let json = r#"{
        "loss": {"kind": "huber", "delta": 0.5, "prediction": "y", "target": "t"},
        "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": true, "weight_decay": 1e-4},
        "trainable": ["fc.*", {"param": "blocks.*.w", "axis": 1, "groups": 8, "keep": [1, 3]}],
        "schedule": {"kind": "cosine", "total_steps": 100, "min_lr": 0.01, "warmup_steps": 5},
        "solvers": [{"at": "denoise.*", "backward": "implicit", "tolerance": {"forward": 1e-4}}, {"at": "*", "backward": "auto"}],
        "budget": {"training_bytes": "8M", "importance": {"batches": 3}, "select_every": 2},
        "clip_norm": 1, "accumulate": 4, "batch_norm": "train", "last_batch": "pad", "non_finite": "skip",
        "data": {"x": {"column": "pixels", "scale": 0.0625, "mean": [0.5], "std": 0.25, "reshape": [64], "cast": "f32", "shift": 1}}
    }"#;
    let recipe = read(json).unwrap();
    assert_eq!(recipe.loss.kind, LossKind::Huber { delta: 0.5 });
    assert_eq!(recipe.clip_norm, Some(1.0));
    assert_eq!(recipe.data["x"].mean, Some(PerChannel::Each(vec![0.5])));
    assert_eq!(recipe.data["x"].cast.map(|d| d.0), Some(gradc_ir::types::DType::F32));
    assert_eq!((recipe.non_finite, recipe.accumulate.get()), (NonFinite::Skip, 4));
    let measured = Importance::Measured(Measured { batches: NonZeroUsize::new(3).unwrap() });
    let budget = recipe.budget.as_ref().unwrap();
    assert_eq!((&budget.importance, budget.select_every), (&measured, NonZeroUsize::new(2)));
    assert_eq!(budget.limit(), Ok(Limit::TrainingBytes(8 << 20)));
    let tolerance = SolverTolerance { forward: 1e-4, ..SolverTolerance::default() };
    assert_eq!(recipe.solvers[0], Solver { at: "denoise.*".into(), backward: SolverBackward::Implicit, tolerance });
    let again = serde_json::to_vec(&recipe).unwrap();
    assert_eq!(Recipe::from_json(&again).unwrap(), recipe, "what is written reads back equal");
}

#[test]
fn everything_wrong_is_told_at_once_with_its_path() {
    let json = r#"{
        "loss": {"kind": "softmax_crossentropy", "prediction": "y"},
        "optimizer": {"kind": "adamw", "lr": "fast", "betas": [0.9, 1.0], "momentun": 0.9},
        "schedule": {"kind": "step", "gamma": 0},
        "trainable": ["fc.*", 7],
        "acumulate": 2,
        "batch_norm": "eval",
        "data": {"x": {"colum": "pixels", "reshape": [-1]}}
    }"#;
    let told: Vec<(String, &str)> = read(json).unwrap_err().0.into_iter().map(|d| (d.loc.layer, d.code)).collect();
    let expected = [
        ("acumulate", "unknown-field"),
        ("batch_norm", "wrong-value"),
        ("data.x.colum", "unknown-field"),
        ("data.x.reshape[0]", "wrong-value"),
        ("data.x", "missing-field"),
        ("loss.kind", "wrong-value"),
        ("optimizer.betas[1]", "wrong-value"),
        ("optimizer.lr", "wrong-value"),
        ("optimizer.momentun", "unknown-field"),
        ("schedule.gamma", "wrong-value"),
        ("schedule", "missing-field"),
        ("trainable[1]", "wrong-value"),
    ];
    assert_eq!(told, expected.map(|(path, code)| (path.to_string(), code)));
}

#[test]
fn diagnostics_say_what_is_expected() {
    let problem = |json: &str| read(json).unwrap_err().0.remove(0);
    let d = problem(&with(r#", "optimizer": {"kind": "adam", "betas": [0.9, 1.5]}"#));
    assert_eq!(d.expected.as_deref(), Some("number at least 0.0 less than 1"));
    assert_eq!(d.found.as_deref(), Some("1.5"));
    let d = problem(&with(r#", "optimizer": {"kind": "adan"}"#));
    assert_eq!(d.expected.as_deref(), Some("`sgd`, `adam`, `adamw`"));
    assert_eq!(d.help.as_deref(), Some("did you mean `adam`?"));
    let d = problem(&with(r#", "acumulate": 2"#));
    assert_eq!(d.help.as_deref(), Some("did you mean `accumulate`?"));
    assert_eq!(problem("{\"loss\":").code, "invalid-json");
    assert_eq!(problem("[]").code, "wrong-value");
}

#[test]
fn inconsistent_fields_are_refused() {
    let cases = [
        (r#", "optimizer": {"kind": "sgd", "nesterov": true}"#, "optimizer.nesterov"),
        (
            r#", "optimizer": {"kind": "sgd", "nesterov": true, "momentum": 0.9, "dampening": 0.1}"#,
            "optimizer.nesterov",
        ),
        (r#", "schedule": {"kind": "cosine", "total_steps": 9, "min_lr": 1}"#, "schedule.min_lr"),
        (r#", "trainable": [{"param": "w", "axis": 0, "keep": "12..12"}]"#, "trainable[0].keep"),
        (r#", "trainable": ["a", {"param": "w", "axis": 0, "keep": "1/0"}]"#, "trainable[1].keep"),
        (r#", "trainable": [{"param": "w", "axis": 0, "keep": "9/8"}]"#, "trainable[0].keep"),
        (r#", "trainable": [{"param": "w", "axis": 0, "keep": "first"}]"#, "trainable[0].keep"),
        (r#", "trainable": [{"param": "w", "axis": 0, "keep": []}]"#, "trainable[0].keep"),
        (r#", "trainable": [{"param": "w", "axis": 0, "keep": [3, 1, 3]}]"#, "trainable[0].keep"),
        (r#", "trainable": [{"param": "w", "axis": 0, "groups": 0, "keep": [1]}]"#, "trainable[0].groups"),
        (r#", "data": {"x": {"column": "x", "std": [1, 0]}}"#, "data.x.std"),
        (r#", "loss": {"kind": "mse", "prediction": "y", "delta": 2}"#, "loss.delta"),
        (r#", "solvers": [{"at": "*", "backward": "implicit", "tolerance": {"gap": 0}}]"#, "solvers[0].tolerance.gap"),
        (r#", "clip_norm": 0"#, "clip_norm"),
        (r#", "accumulate": 0"#, "accumulate"),
    ];
    for (fields, path) in cases {
        let found = read(&with(fields)).unwrap_err();
        assert_eq!(found.0.iter().map(|d| d.loc.layer.as_str()).collect::<Vec<_>>(), [path], "{fields}");
    }
}

#[test]
fn reference_recipes_work_as_they_are() {
    let shared = std::env::var("GRADC_SHARED").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let Ok(models) = std::fs::read_dir(Path::new(&shared).join("reference/models")) else {
        return eprintln!("SKIPPED: no reference models in {shared}");
    };
    let mut count = 0;
    for model in models {
        Recipe::from_file(&model.unwrap().path().join("recipe.json")).unwrap();
        count += 1;
    }
    assert!(count > 0, "the reference folder holds models");
}

#[test]
fn budgets_have_one_limit_within_range() {
    let limit = |json: &str| read(&with(&format!(r#", "budget": {json}"#))).map(|r| r.budget.unwrap().limit().unwrap());
    assert_eq!(limit(r#"{"backward_flops": 0.4}"#), Ok(Limit::BackwardFlops(0.4)));
    assert_eq!(limit(r#"{"training_bytes": 0.25}"#), Ok(Limit::TrainingShare(0.25)));
    assert_eq!(limit(r#"{"training_bytes": "64KiB"}"#), Ok(Limit::TrainingBytes(64 << 10)));
    let cases = [
        ("{}", "budget", "inconsistent-recipe"),
        (r#"{"backward_flops": 0.4, "training_bytes": 0.4}"#, "budget", "inconsistent-recipe"),
        (r#"{"backward_flops": 0}"#, "budget.backward_flops", "wrong-value"),
        (r#"{"backward_flops": 1.5}"#, "budget.backward_flops", "wrong-value"),
        (r#"{"backward_flops": "8M"}"#, "budget.backward_flops", "wrong-value"),
        (r#"{"training_bytes": 2}"#, "budget.training_bytes", "wrong-value"),
        (r#"{"training_bytes": "8Q"}"#, "budget.training_bytes", "wrong-value"),
        (r#"{"backward_flops": 0.4, "importance": {"batches": 0}}"#, "budget.importance.batches", "wrong-value"),
        (
            r#"{"backward_flops": 0.4, "importance": [{"param": "*", "value": -1}]}"#,
            "budget.importance[0].value",
            "wrong-value",
        ),
        (
            r#"{"backward_flops": 0.4, "importance": [{"param": "*", "value": 1}], "select_every": 1}"#,
            "budget.select_every",
            "inconsistent-recipe",
        ),
    ];
    for (json, place, code) in cases {
        let told = limit(json).unwrap_err().0;
        assert_eq!(told.iter().map(|d| (d.loc.layer.as_str(), d.code)).collect::<Vec<_>>(), [(place, code)], "{json}");
    }
}
