"""Reproduce the polynomial coefficients of src/simd/math.hpp (needs mpmath).

Each is a Chebyshev interpolant computed with 60 digits and expanded in powers; the printed error is the largest
relative one over 400 points, as a power of two, before the coefficients are rounded to their type.
"""

import struct

import mpmath as mp

mp.mp.dps = 60


def chebyshev_fit(f, lower, upper, degree):
    """Coefficients, constant first, of the polynomial through the degree + 1 Chebyshev points of [lower, upper]."""
    count = degree + 1
    points = [mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]
    points = [(upper - lower) / 2 * x + (lower + upper) / 2 for x in points]
    vandermonde = mp.matrix(count, count)
    for row, x in enumerate(points):
        for column in range(count):
            vandermonde[row, column] = x**column
    return list(mp.lu_solve(vandermonde, mp.matrix([f(x) for x in points])))


def report(name, f, lower, upper, degree, single):
    coefficients = chebyshev_fit(f, lower, upper, degree)
    samples = [lower + (upper - lower) * mp.mpf(i) / 400 for i in range(401)]
    error = max(abs(mp.polyval(coefficients[::-1], x) / f(x) - 1) for x in samples)
    print(f"{name}: degree {degree}, relative error 2^{float(mp.log(error, 2)):.1f}")
    for c in coefficients:
        value = struct.unpack("f", struct.pack("f", float(c)))[0] if single else float(c)
        print(f"    {value.hex()},")


def exp_tail(r):
    """(e^r - 1 - r) / r^2"""
    return (mp.exp(r) - 1 - r) / r**2 if abs(r) > mp.mpf(10) ** -20 else mp.mpf(1) / 2


def exp2_tail(r):
    """(2^r - 1) / r"""
    return (mp.mpf(2) ** r - 1) / r if abs(r) > mp.mpf(10) ** -20 else mp.log(2)


def scaled_erfcx(centre):
    """(1 + 2z) e^(z^2) erfc(z) as a function of t = (z - centre) / (z + centre)"""

    def f(t):
        z = centre * (1 + t) / (1 - t)
        return (1 + 2 * z) * mp.exp(z * z) * mp.erfc(z)

    return f


def main():
    half = mp.log(2) / 2 * mp.mpf("1.01")
    report("exp tail, float32", exp_tail, -half, half, 5, single=True)
    report("exp tail, float64", exp_tail, -half, half, 10, single=False)
    whole = mp.mpf("0.505")
    report("exp2 tail, float32", exp2_tail, -whole, whole, 5, single=True)
    report("exp2 tail, float64", exp2_tail, -whole, whole, 11, single=False)
    for name, centre, largest, degree, single in (("float32", 2, 10.5, 11, True), ("float64", 4, 28, 23, False)):
        upper = (mp.mpf(largest) - centre) / (mp.mpf(largest) + centre)
        report(f"erfcx, {name}", scaled_erfcx(centre), mp.mpf(-1), upper, degree, single)


if __name__ == "__main__":
    main()
