//! Selection: the best set by attributed costs whose step, planned, holds the budget.

use super::attribution::{Attribution, ParameterCost};
use super::importance::{Importances, add_importances};
use super::selection::{Limited, Selection};
use crate::compile::{PlannedStep, compile_rolled, plan_step, rolled};
use crate::error::SessionError;
use crate::options::Options;
use crate::parameters::ParameterReport;
use crate::report::CompileReport;
use crate::session::Session;
use crate::step::CompiledStep;
use crate::training_cost::TrainingCost;
use crate::view::TensorView;
use gradc_frontend::model::Model;
use gradc_frontend::recipe::{Limit, NonFinite, Recipe, given_importances};
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_passes::select::{Choice, Choices, ParameterSet, SharedCosts, best_choices};
use std::collections::{BTreeMap, BTreeSet};

/// Compiled sets that are kept; of more, the oldest are compiled again when they are needed.
const MOST_VARIANTS: usize = 16;

/// Steps planned to see whether they hold a budget, before the search only goes down.
const MOST_TRIALS: usize = 8;

/// Selects what trains of a model under its recipe's budget, and compiles it.
///
/// Costs are attributed once, in the step in which all of `trainable` trains. A set's own step is planned before it is
/// selected, and what counts is what that costs: rewriting and planning it alone can save more than attribution sees.
pub struct Selector {
    model: Model,
    /// What rolling did.
    rolled: CompileReport,
    recipe: Recipe,
    options: Options,
    limited: Limited,
    budget: u64,
    full_cost: u64,
    attribution: Attribution,
    /// Importance of each parameter before anything is measured.
    initial: Importances,
    planned: BTreeMap<ParameterSet, u64>,
    variants: Vec<(BTreeSet<String>, CompiledStep)>,
    measuring: Option<CompiledStep>,
}

impl Selector {
    /// Attributes what training a model costs; the recipe has a budget.
    ///
    /// # Errors
    /// The model or the recipe does not compile, or the recipe has no budget.
    pub fn new(model: &Model, recipe: &Recipe, options: &Options) -> Result<Selector, Diagnostics> {
        let budget = recipe.budget.as_ref();
        let budget = budget.ok_or_else(|| Diagnostic::new("no-budget", "the recipe has no budget"))?;
        let mut report = CompileReport::default();
        let model = rolled(model, options, &mut report)?;
        let full = plan_step(&model, recipe, None, options)?;
        let (limited, budget) = match budget.limit()? {
            Limit::BackwardFlops(share) => (Limited::BackwardFlops, share * full.cost.backward_flops as f64),
            Limit::TrainingShare(share) => (Limited::TrainingBytes, share * full.cost.training_bytes() as f64),
            Limit::TrainingBytes(bytes) => (Limited::TrainingBytes, bytes as f64),
        };
        let given = given_importances(recipe, &model)?;
        let initial = |p: &ParameterReport| match &given {
            Some(given) => given.get(&p.name).copied().unwrap_or(0.0),
            None => p.trained_elements as f64,
        };
        let may_train = full.parameters.iter().filter(|p| p.trained_elements > 0);
        let initial = may_train.map(|p| (p.name.clone(), initial(p))).collect();
        Ok(Selector {
            rolled: report,
            limited,
            budget: budget as u64,
            full_cost: cost_of(limited, &full.cost),
            attribution: attribution(&model, recipe, options, full)?,
            initial,
            model,
            recipe: recipe.clone(),
            options: Options { spare_time: false, ..options.clone() },
            planned: BTreeMap::new(),
            variants: vec![],
            measuring: None,
        })
    }

    /// The recipe with the budget.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What training each parameter costs in the step in which everything trains.
    pub fn parameter_costs(&self) -> Vec<ParameterCost> {
        self.attribution.parameter_costs()
    }

    /// The importance of each parameter that may train as the recipe gives it, or else the number of its elements that
    /// train.
    pub fn initial_importances(&self) -> &Importances {
        &self.initial
    }

    /// The set of most importance that holds the budget. What has no importance is not selected.
    ///
    /// # Errors
    /// No parameter has an importance, or the one that costs least is over the budget.
    pub fn select(&mut self, importances: &Importances) -> Result<Selection, Diagnostics> {
        let parameters = self.attribution.parameters.clone();
        let of_each: Vec<f64> = parameters.iter().map(|p| importances.get(p).copied().unwrap_or(0.0)).collect();
        let (choice, is_exact) = self.best_within(&of_each)?;
        Ok(Selection {
            chosen: self.names(&choice.parameters),
            importances: parameters.into_iter().zip(of_each).collect(),
            limited: self.limited,
            budget: self.budget,
            cost: self.planned_cost(&choice)?,
            full_cost: self.full_cost,
            is_exact,
        })
    }

    /// The best choice whose step holds the budget, and whether it is the best by attributed costs.
    fn best_within(&mut self, importances: &[f64]) -> Result<(Choice, bool), Diagnostics> {
        let (costs, total) = (self.costs().clone(), self.costs().total());
        // Of choices far above the budget there are too many to keep; they are looked at where even these hold it.
        for most in [self.foreseen(self.budget).saturating_mul(2), total] {
            let Choices { mut best, is_exact } = best_choices(&costs, importances, most.min(total));
            let last = self.last_within(&best)?;
            if last > 0 && (last + 1 < best.len() || most >= total) {
                return Ok((best.swap_remove(last), is_exact));
            }
        }
        Ok((self.single_within(&costs, importances)?, false))
    }

    fn costs(&self) -> &SharedCosts {
        match self.limited {
            Limited::BackwardFlops => &self.attribution.backward_flops,
            Limited::TrainingBytes => &self.attribution.kept_bytes,
        }
    }

    fn names(&self, parameters: &ParameterSet) -> BTreeSet<String> {
        parameters.ones().map(|p| self.attribution.parameters[p].clone()).collect()
    }

    /// Attributed costs of a set whose step costs `cost`, if what is not attributed is as in the full step: the memory
    /// in which kernels work.
    fn foreseen(&self, cost: u64) -> u64 {
        cost.saturating_add(self.costs().total()).saturating_sub(self.full_cost)
    }

    /// The last of these choices whose step holds the budget, as far as steps that were planned show; the first, of
    /// nothing, if none does.
    ///
    /// Goes to the choice that attributed costs foresee, and from there by what they are off by.
    fn last_within(&mut self, best: &[Choice]) -> Result<usize, Diagnostics> {
        let up_to = |cost: u64| best.partition_point(|choice| choice.cost <= cost).saturating_sub(1);
        let (mut holds, mut exceeds) = (0, best.len());
        let mut next = up_to(self.foreseen(self.budget)).max(1);
        for trial in 1.. {
            if next <= holds || next >= exceeds {
                break;
            }
            let cost = self.planned_cost(&best[next])?;
            let aim = best[next].cost.saturating_add(self.budget).saturating_sub(cost);
            if cost <= self.budget {
                holds = next;
                next = up_to(aim).min(exceeds - 1);
            } else {
                exceeds = next;
                let half = (holds + exceeds) / 2;
                next = if trial < MOST_TRIALS { up_to(aim).clamp(holds + 1, exceeds.max(holds + 2) - 1) } else { half };
            }
            if trial >= MOST_TRIALS && holds > 0 {
                break;
            }
        }
        Ok(holds)
    }

    /// What the step of a choice costs.
    fn planned_cost(&mut self, choice: &Choice) -> Result<u64, Diagnostics> {
        if let Some(&known) = self.planned.get(&choice.parameters) {
            return Ok(known);
        }
        let chosen = self.names(&choice.parameters);
        let cost = cost_of(self.limited, &plan_step(&self.model, &self.recipe, Some(&chosen), &self.options)?.cost);
        self.planned.insert(choice.parameters.clone(), cost);
        Ok(cost)
    }

    /// Where no choice that was foreseen holds the budget: of the parameters that are foreseen to cost least alone, the
    /// most important one whose own step holds it. Loops that make several gradients are foreseen to cost all of them.
    fn single_within(&mut self, costs: &SharedCosts, importances: &[f64]) -> Result<Choice, Diagnostics> {
        let of_each = costs.attribute(importances.len());
        let mut cheapest: Vec<usize> = (0..importances.len()).filter(|&p| importances[p] > 0.0).collect();
        cheapest.sort_by_key(|&p| of_each[p].alone);
        let mut tried = Vec::new();
        for p in cheapest.into_iter().take(MOST_TRIALS) {
            let mut parameters = ParameterSet::with_capacity(importances.len());
            parameters.insert(p);
            let choice = Choice { parameters, cost: of_each[p].alone, importance: importances[p] };
            tried.push((self.planned_cost(&choice)?, choice));
        }
        let within = tried.iter().filter(|(cost, _)| *cost <= self.budget);
        match within.max_by(|(_, a), (_, b)| a.importance.total_cmp(&b.importance)) {
            Some((_, choice)) => Ok(choice.clone()),
            None => Err(self.nothing_fits(&tried).into()),
        }
    }

    fn nothing_fits(&self, tried: &[(u64, Choice)]) -> Diagnostic {
        let Some((cost, cheapest)) = tried.iter().min_by_key(|(cost, _)| cost) else {
            return Diagnostic::new("nothing-to-train", "no parameter has any importance");
        };
        let names = Vec::from_iter(self.names(&cheapest.parameters)).join("`, `");
        let unit = match self.limited {
            Limited::BackwardFlops => "operations of the backward pass",
            Limited::TrainingBytes => "bytes",
        };
        let share = *cost as f64 / self.full_cost.max(1) as f64;
        Diagnostic::new("budget-too-small", "no parameter can train within the budget")
            .expected(format!("at least {cost} {unit}, a share of {share:.4}: `{names}` costs least"))
            .found(self.budget)
    }

    /// The step in which a selection trains; compiled once.
    pub fn compile(&mut self, selection: &Selection) -> Result<CompiledStep, Diagnostics> {
        self.variant(&selection.chosen, Some(selection))
    }

    /// The step in which these parameters train; compiled once.
    ///
    /// # Errors
    /// One of them is none that may train, or there are none.
    pub fn compile_set(&mut self, chosen: &BTreeSet<String>) -> Result<CompiledStep, Diagnostics> {
        let is_known = |name: &String| self.attribution.parameters.contains(name);
        match chosen.iter().find(|name| !is_known(name)) {
            Some(name) => Err(Diagnostic::new("unknown-parameter", format!("`{name}` may not train")).into()),
            None if chosen.is_empty() => Err(Diagnostic::new("nothing-to-train", "no parameter trains").into()),
            None => self.variant(chosen, None),
        }
    }

    fn variant(
        &mut self,
        chosen: &BTreeSet<String>,
        selection: Option<&Selection>,
    ) -> Result<CompiledStep, Diagnostics> {
        if let Some((_, step)) = self.variants.iter().find(|(of, _)| of == chosen) {
            return Ok(step.clone());
        }
        let (report, options) = (self.report(selection), &self.options);
        let step = compile_rolled(&self.model, Some(&self.recipe), Some(chosen), options, report)?;
        if self.variants.len() == MOST_VARIANTS {
            self.variants.remove(0);
        }
        self.variants.push((chosen.clone(), step.clone()));
        Ok(step)
    }

    fn report(&self, selection: Option<&Selection>) -> CompileReport {
        CompileReport {
            stages: self.rolled.stages.clone(),
            rolls: self.rolled.rolls.clone(),
            texts: self.rolled.texts.clone(),
            selection: selection.cloned(),
            ..CompileReport::default()
        }
    }

    /// What the updates of parameters are worth on some batches: Σ|gradient · update| at the parameters and buffers of
    /// a session, with optimizer state that starts at zero. The session stays as it is.
    ///
    /// # Errors
    /// A batch does not fit, or a loss or importance is not finite (batches of such a loss are left out where the
    /// recipe skips such steps).
    pub fn measure<'a>(
        &mut self,
        session: &Session,
        batches: impl IntoIterator<Item = Vec<(&'a str, TensorView<'a>)>>,
    ) -> Result<Importances, SessionError> {
        let mut measuring = session.at_rest(&self.measuring()?)?;
        let mut sums = Importances::new();
        for batch in batches {
            match add_importances(&mut sums, &mut measuring, &batch) {
                Err(SessionError::NonFinite { .. }) if self.recipe.non_finite == NonFinite::Skip => {}
                other => other?,
            }
        }
        Ok(sums)
    }

    /// The step that measures.
    fn measuring(&mut self) -> Result<CompiledStep, Diagnostics> {
        if let Some(step) = &self.measuring {
            return Ok(step.clone());
        }
        let options = Options { importances: true, ..self.options.clone() };
        let step = compile_rolled(&self.model, Some(&self.recipe), None, &options, self.report(None))?;
        Ok(self.measuring.insert(step).clone())
    }
}

/// What each parameter that may train costs in the step of a model in which all of them train.
///
/// # Errors
/// The model or the recipe does not compile.
pub fn parameter_costs(model: &Model, recipe: &Recipe, options: &Options) -> Result<Vec<ParameterCost>, Diagnostics> {
    let model = rolled(model, options, &mut CompileReport::default())?;
    let full = plan_step(&model, recipe, None, options)?;
    Ok(attribution(&model, recipe, options, full)?.parameter_costs())
}

/// What a step in which everything trains costs, by parameters.
///
/// Clipping by the norm of all gradients makes every update need every gradient, but only of what trains: costs are
/// attributed without it.
fn attribution(
    model: &Model,
    recipe: &Recipe,
    options: &Options,
    full: PlannedStep,
) -> Result<Attribution, Diagnostics> {
    if recipe.clip_norm.is_none() {
        return Ok(Attribution::of(&full.plan));
    }
    let unclipped = Recipe { clip_norm: None, ..recipe.clone() };
    Ok(Attribution::of(&plan_step(model, &unclipped, None, options)?.plan))
}

fn cost_of(limited: Limited, cost: &TrainingCost) -> u64 {
    match limited {
        Limited::BackwardFlops => cost.backward_flops,
        Limited::TrainingBytes => cost.training_bytes() as u64,
    }
}
