// What mamba_ssm's kernels take from PyTorch's headers, for a build without PyTorch: types and checks, no arithmetic of
// real numbers. The complex kernels are never instantiated; their source only has to parse.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <initializer_list>
#include <type_traits>

namespace at {
using BFloat16 = __nv_bfloat16;
using Half = __half;
}  // namespace at

namespace c10 {
template <typename T>
struct complex {
    T real_, imag_;
    __host__ __device__ complex(T real = T(), T imag = T()) : real_(real), imag_(imag) {}
    __host__ __device__ complex &operator+=(complex b) { return *this = complex(real_ + b.real_, imag_ + b.imag_); }
};
template <typename T> __host__ __device__ complex<T> operator+(complex<T> a, complex<T> b) { return a += b; }
template <typename T> __host__ __device__ complex<T> operator-(complex<T> a, complex<T> b) {
    return {a.real_ - b.real_, a.imag_ - b.imag_};
}
template <typename T> __host__ __device__ complex<T> operator*(complex<T> a, complex<T> b) {
    return {a.real_ * b.real_ - a.imag_ * b.imag_, a.real_ * b.imag_ + a.imag_ * b.real_};
}
template <typename T, typename S> __host__ __device__ complex<T> operator*(S a, complex<T> b) {
    return {T(a) * b.real_, T(a) * b.imag_};
}
template <typename T, typename S> __host__ __device__ complex<T> operator*(complex<T> a, S b) { return b * a; }
}  // namespace c10

namespace std {
template <typename T> __host__ __device__ c10::complex<T> conj(c10::complex<T> x) { return {x.real_, -x.imag_}; }
}  // namespace std

__device__ inline void gpuAtomicAdd(float *address, float value) { atomicAdd(address, value); }
__device__ inline void gpuAtomicAdd(c10::complex<float> *address, c10::complex<float> value) {
    atomicAdd(&address->real_, value.real_);
    atomicAdd(&address->imag_, value.imag_);
}

// The caller asks for errors after each launch.
#define C10_CUDA_CHECK(call) (void)(call)
#define C10_CUDA_KERNEL_LAUNCH_CHECK()
