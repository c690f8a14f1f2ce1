"""The contraction criterion against closed-form denoisers and against the sampling ODE itself.

Invariants: (1) the rate operator of every prediction type is the Jacobian of the sampling ODE; (2) its sign is the
sign that Theorem 3.1 and the table of per-prediction conditions give; (3) predictions of the same denoiser agree.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from lerobot_cdp.contraction import denoiser_coefficients, rate_operator, signal_and_noise
from tests.conftest import symmetric_matrix

VP_PREDICTIONS = ("epsilon", "sample", "v_prediction")
D = 6


def gaussian_denoiser_jacobian(alpha: float, sigma: float, covariance: torch.Tensor) -> torch.Tensor:
    """J_D of Gaussian data: E[x_0 | x_t] is linear in x_t with slope α C (α² C + σ² I)⁻¹."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    return alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)


def network_jacobian(j_d: torch.Tensor, alpha: float, sigma: float, prediction: str) -> torch.Tensor:
    """J_f of the network that predicts `prediction` exactly, from the definitions of ε, v and velocity."""
    eye = torch.eye(len(j_d), dtype=j_d.dtype)
    j_epsilon = (eye - alpha * j_d) / sigma  # ε = (x_t − α x_0)/σ
    return {
        "sample": j_d,
        "epsilon": j_epsilon,
        "v_prediction": alpha * j_epsilon - sigma * j_d,
        "velocity": j_epsilon - j_d,
    }[prediction]


def operator_at(alpha: float, sigma: float, prediction: str, process: str):
    alpha, sigma = torch.tensor([[alpha], [sigma]], dtype=torch.float64)
    return rate_operator(alpha, sigma, prediction, process)


def rate_matrix(alpha: float, sigma: float, prediction: str, process: str, j_f: torch.Tensor) -> torch.Tensor:
    operator = operator_at(alpha, sigma, prediction, process)
    return operator.shift * torch.eye(len(j_f)).double() + operator.scale * j_f


def ode_jacobian_per_log_snr(alpha, sigma, j_d, t: float) -> torch.Tensor:
    """∂(dx/dΛ)/∂x of dx/dt = (σ'/σ) x + (α' − α σ'/σ) D(x), with Λ = log α/σ, by autodiff in t."""
    t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    a, s = alpha(t), sigma(t)
    (da,) = torch.autograd.grad(a, t, retain_graph=True) if a.requires_grad else (torch.zeros_like(t),)
    (ds,) = torch.autograd.grad(s, t, retain_graph=True)
    d_log_snr = da / a - ds / s
    eye = torch.eye(len(j_d), dtype=j_d.dtype)
    return ((ds / s) * eye + (da - a * ds / s) * j_d).detach() / d_log_snr.detach()


PROCESSES = {
    "vp": (lambda t: torch.cos(t * torch.pi / 2), lambda t: torch.sin(t * torch.pi / 2), VP_PREDICTIONS),
    "flow": (lambda t: 1 - t, lambda t: t, ("velocity", "sample", "epsilon")),
    "ve": (lambda t: torch.ones_like(t), lambda t: 3 * t**2, ("sample", "epsilon")),
}


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("process", PROCESSES)
def test_rate_operator_is_the_jacobian_of_the_sampling_ode(process, t, seed):
    alpha_of, sigma_of, predictions = PROCESSES[process]
    alpha, sigma = (f(torch.tensor(t, dtype=torch.float64)).item() for f in (alpha_of, sigma_of))
    j_d = symmetric_matrix(torch.linspace(-1, 3, D), seed)
    expected = ode_jacobian_per_log_snr(alpha_of, sigma_of, j_d, t)
    for prediction in predictions:
        got = rate_matrix(alpha, sigma, prediction, process, network_jacobian(j_d, alpha, sigma, prediction))
        torch.testing.assert_close(got, expected, msg=lambda m, p=prediction: f"{process} {p}: {m}")
        # Where a denoiser ignores x_t, sampling contracts fastest.
        fastest = operator_at(alpha, sigma, prediction, process).fastest
        torch.testing.assert_close(-fastest * torch.eye(D), ode_jacobian_per_log_snr(alpha_of, sigma_of, 0 * j_d, t))


@pytest.mark.parametrize("prediction", VP_PREDICTIONS)
@pytest.mark.parametrize("alpha", [0.2, 0.6, 0.95])
def test_sign_of_the_condition_on_a_closed_form_denoiser(prediction, alpha, seed):
    """Gaussian data with one wide and one narrow direction: sampling expands along the wide one alone.

    dx/dΛ of Gaussian data has the rates σ² (s² − 1) α² / (α² s² + σ²) for variances s²: by hand, from the ODE.
    """
    sigma = (1 - alpha**2) ** 0.5
    for largest, expands in ((4.0, True), (0.25, False)):
        variances = torch.linspace(0.01, largest, D, dtype=torch.float64)
        j_d = gaussian_denoiser_jacobian(alpha, sigma, symmetric_matrix(variances, seed))
        j_f = network_jacobian(j_d, alpha, sigma, prediction)
        rate = torch.linalg.eigvalsh(rate_matrix(alpha, sigma, prediction, "vp", j_f))[-1].item()
        by_hand = alpha**2 * sigma**2 * (largest - 1) / (alpha**2 * largest + sigma**2)
        assert rate == pytest.approx(by_hand, rel=1e-9), prediction
        assert (rate > 0) == expands, prediction
        eigenvalues = torch.linalg.eigvalsh(j_f)
        contracts = {
            "sample": eigenvalues[-1] < alpha,
            "epsilon": eigenvalues[0] > sigma,
            "v_prediction": eigenvalues[0] > 0,
        }[prediction]
        assert bool(contracts) != expands, prediction


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_theorem_3_1_for_the_score(alpha, seed):
    """λ_max(sym J_score) < −f/h of dx/dt = f x − h score, in both ways of writing it, is ρ < 0."""
    sigma = (1 - alpha**2) ** 0.5
    for shift in (-0.5, -0.1, 0.1, 0.5):
        j_d = symmetric_matrix(torch.linspace(-2, alpha + shift, D), seed)
        j_score = -network_jacobian(j_d, alpha, sigma, "epsilon") / sigma
        # α = cos θ, σ = sin θ: f = α'/α = −tan θ; h = g²/2 = σ σ' − σ² α'/α = tan θ.
        f, h = -sigma / alpha, sigma / alpha
        from_score = torch.linalg.eigvalsh(j_score)[-1] < f / h
        from_epsilon = torch.linalg.eigvalsh(network_jacobian(j_d, alpha, sigma, "epsilon"))[0] > sigma
        rate = torch.linalg.eigvalsh(rate_matrix(alpha, sigma, "sample", "vp", j_d))[-1]
        assert bool(from_score) == bool(from_epsilon) == bool(rate < 0) == (shift < 0)


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_signal_and_noise_are_the_schedulers(scheduler_class):
    scheduler = scheduler_class(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2")
    t = torch.tensor([0, 10, 49])
    alpha, sigma = signal_and_noise(scheduler, t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3))
    reference = DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2")
    noised = reference.add_noise(torch.ones(3, 1), torch.zeros(3, 1), t)
    torch.testing.assert_close(alpha.unsqueeze(1), noised)


def test_errors_name_the_setting():
    one = torch.ones(1)
    with pytest.raises(TypeError, match="`scheduler` must have `alphas_cumprod`.*Got FlowMatchEulerDiscrete"):
        signal_and_noise(FlowMatchEulerDiscreteScheduler(), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="`prediction_type` must be one of .* Got 'noise'"):
        denoiser_coefficients(one, one, "noise")
    with pytest.raises(ValueError, match="`process` must be 'vp' with `prediction_type` 'v_prediction'. Got 'flow'."):
        rate_operator(one, one, "v_prediction", "flow")
    with pytest.raises(ValueError, match="`process` must be one of .* Got 'sde'"):
        rate_operator(one, one, "sample", "sde")
