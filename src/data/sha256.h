// SHA-256, for digests that other programs write (launch/prepare_calibration.py). Our own digests are XXH3, which is
// faster (base/hash.h).
//
// Source: FIPS 180-4, sections 4.1.2, 5.3.3 and 6.2.
#pragma once

#include <string>
#include <string_view>

namespace roundtable {

// 64 hexadecimal digits, as Python's hashlib.sha256(text).hexdigest().
std::string sha256(std::string_view text);

}  // namespace roundtable
