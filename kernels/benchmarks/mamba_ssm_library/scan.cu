// mamba_ssm's selective scan as two custom calls for XLA: its kernels as they are, launched as its own launchers do, for
// bfloat16 rows, B and C in one group, softplus, D and a bias, no z. The build picks these kernels, not 240.
// Rows are (b d l), B and C (b n l), A (d n), D and the bias (d), the states at chunks' ends (b d chunks 2n), float32.
#include "selective_scan_fwd_kernel.cuh"
#include "selective_scan_bwd_kernel.cuh"

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Half = ffi::Buffer<ffi::BF16>;
using Wide = ffi::Buffer<ffi::F32>;

template <int threads, int items, bool even>
void launch(SSMParamsBase &params, cudaStream_t stream) {
    using Traits =
        Selective_Scan_fwd_kernel_traits<threads, items, 1, even, true, true, false, at::BFloat16, float>;
    constexpr int shared = Traits::kSmemSize + MAX_DSTATE * sizeof(typename Traits::scan_t);
    auto kernel = &selective_scan_fwd_kernel<Traits>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    kernel<<<dim3(params.batch, params.dim), threads, shared, stream>>>(params);
}

template <int threads, int items, bool even>
void launch(SSMParamsBwd &params, cudaStream_t stream) {
    using Traits =
        Selective_Scan_bwd_kernel_traits<threads, items, even, true, true, true, false, at::BFloat16, float>;
    constexpr int shared = Traits::kSmemSize + MAX_DSTATE * sizeof(typename Traits::scan_t) +
                           (threads + 4 * MAX_DSTATE) * sizeof(typename Traits::weight_t);
    auto kernel = &selective_scan_bwd_kernel<Traits>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    kernel<<<dim3(params.batch, params.dim), threads, shared, stream>>>(params);
}

// The blocks that mamba_ssm's own launchers pick; lengths that no named shape has are left out.
template <typename Params>
ffi::Error launched(Params &params, cudaStream_t stream) {
    if (params.seqlen <= 128 && params.seqlen % 128) {
        launch<32, 4, false>(params, stream);
    } else if (params.seqlen > 256 && params.seqlen < 512) {
        launch<32, 16, false>(params, stream);
    } else if (params.seqlen > 1024 && params.seqlen % 2048 == 0) {
        launch<128, 16, true>(params, stream);
    } else {
        return ffi::Error::InvalidArgument("mamba_ssm's kernels were built for other lengths.");
    }
    cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? ffi::Error::Success() : ffi::Error::Internal(cudaGetErrorString(status));
}

void describe(SSMParamsBase &p, Half &u, Half &delta, Wide &A, Half &B, Half &C, Wide &D, Wide &bias, void *states) {
    auto rows = u.dimensions();
    p.batch = rows[0], p.dim = rows[1], p.seqlen = rows[2], p.dstate = A.dimensions()[1];
    p.n_groups = 1, p.n_chunks = (p.seqlen + 2047) / 2048, p.dim_ngroups_ratio = p.dim;
    p.is_variable_B = p.is_variable_C = p.delta_softplus = true;
    p.A_d_stride = p.dstate, p.A_dstate_stride = 1;
    p.B_batch_stride = p.C_batch_stride = p.B_group_stride = p.C_group_stride = uint64_t(p.dstate) * p.seqlen;
    p.B_dstate_stride = p.C_dstate_stride = p.seqlen;
    p.u_batch_stride = p.delta_batch_stride = p.out_batch_stride = uint64_t(p.dim) * p.seqlen;
    p.u_d_stride = p.delta_d_stride = p.out_d_stride = p.seqlen;
    p.u_ptr = u.untyped_data(), p.delta_ptr = delta.untyped_data(), p.A_ptr = A.untyped_data();
    p.B_ptr = B.untyped_data(), p.C_ptr = C.untyped_data(), p.D_ptr = D.untyped_data();
    p.delta_bias_ptr = bias.untyped_data(), p.x_ptr = states;
}

ffi::Error forward(cudaStream_t stream, Half u, Half delta, Wide A, Half B, Half C, Wide D, Wide bias,
                   ffi::Result<Half> y, ffi::Result<Wide> states) {
    SSMParamsBase p{};
    describe(p, u, delta, A, B, C, D, bias, states->untyped_data());
    p.out_ptr = y->untyped_data();
    return launched(p, stream);
}

ffi::Error backward(cudaStream_t stream, Half u, Half delta, Wide A, Half B, Half C, Wide D, Wide bias, Half dy,
                    Wide states, ffi::Result<Half> du, ffi::Result<Half> ddelta, ffi::Result<Wide> dA,
                    ffi::Result<Wide> dB, ffi::Result<Wide> dC, ffi::Result<Wide> dD, ffi::Result<Wide> dbias) {
    SSMParamsBwd p{};
    describe(p, u, delta, A, B, C, D, bias, states.untyped_data());
    // The kernels add to these.
    for (auto *sum : {&dA, &dB, &dC, &dD, &dbias}) cudaMemsetAsync((*sum)->untyped_data(), 0, (*sum)->size_bytes(), stream);
    p.out_ptr = p.dout_ptr = dy.untyped_data();
    p.du_ptr = du->untyped_data(), p.ddelta_ptr = ddelta->untyped_data();
    p.dA_ptr = dA->untyped_data(), p.dB_ptr = dB->untyped_data(), p.dC_ptr = dC->untyped_data();
    p.dD_ptr = dD->untyped_data(), p.ddelta_bias_ptr = dbias->untyped_data();
    p.dout_batch_stride = p.du_batch_stride = p.ddelta_batch_stride = p.u_batch_stride;
    p.dout_d_stride = p.du_d_stride = p.ddelta_d_stride = p.u_d_stride;
    p.dA_d_stride = p.A_d_stride, p.dA_dstate_stride = 1;
    p.dB_batch_stride = p.dC_batch_stride = p.dB_group_stride = p.dC_group_stride = p.B_batch_stride;
    p.dB_dstate_stride = p.dC_dstate_stride = p.B_dstate_stride;
    return launched(p, stream);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    mamba_ssm_forward, forward,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()
        .Arg<Half>().Arg<Half>().Arg<Wide>().Arg<Half>().Arg<Half>().Arg<Wide>().Arg<Wide>()
        .Ret<Half>().Ret<Wide>(),
    {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    mamba_ssm_backward, backward,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()
        .Arg<Half>().Arg<Half>().Arg<Wide>().Arg<Half>().Arg<Half>().Arg<Wide>().Arg<Wide>().Arg<Half>().Arg<Wide>()
        .Ret<Half>().Ret<Half>().Ret<Wide>().Ret<Wide>().Ret<Wide>().Ret<Wide>().Ret<Wide>(),
    {ffi::Traits::kCmdBufferCompatible});
