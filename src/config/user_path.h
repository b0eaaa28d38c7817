// Paths as users write them, in a config and on the command line.
#pragma once

#include <string>
#include <string_view>

namespace roundtable {

// The path that `text` means, in the one spelling that the program uses: `~` is the home folder, and there are no
// repeated or trailing slashes, so that path + ".run" is next to the folder and not in it. Empty stays empty. A
// relative path stays relative. Throws Error (kBadInput) with `place` in front for `$`, since variables are the
// shell's, and for the home folder of another user (`~name`).
std::string path_from_user(std::string_view text, const std::string& place);

}  // namespace roundtable
