// Descriptors that close themselves, whole writes, and files that are put in place.
#include "io/posix.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

int open_descriptors() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

TEST(UniqueFd, ClosesItselfOnce) {
  int number = -1;
  {
    UniqueFd fd(::open("/dev/null", O_WRONLY));
    number = fd.get();
    UniqueFd moved(std::move(fd));
    EXPECT_FALSE(fd.is_open());
    EXPECT_TRUE(is_open(moved.get()));
    fd = std::move(moved);
    EXPECT_EQ(fd.get(), number);
  }
  EXPECT_FALSE(is_open(number));
  UniqueFd wrong(number);
  EXPECT_EQ(wrong.close(), EBADF);
  EXPECT_FALSE(wrong.is_open());
}

TEST(WriteWhole, SaysWhyItCouldNot) {
  EXPECT_EQ(write_whole(UniqueFd(::open("/dev/null", O_WRONLY)).get(), "abc", 3), 0);
  EXPECT_EQ(write_whole(UniqueFd(::open("/dev/full", O_WRONLY)).get(), "abc", 3), ENOSPC);
  EXPECT_EQ(write_whole(-1, "abc", 3), EBADF);
}

TEST(CommitFile, ReplacesOrKeepsWhatIsThere) {
  const TemporaryFolder folder;
  const std::string final_path = folder.path() + "/final";
  const int before = open_descriptors();
  commit_file(folder.put("one", "1"), final_path, /*replace=*/false);
  EXPECT_EQ(content_of(final_path), "1");
  commit_file(folder.put("two", "2"), final_path, /*replace=*/false);
  EXPECT_EQ(content_of(final_path), "1");
  commit_file(folder.put("three", "3"), final_path, /*replace=*/true);
  EXPECT_EQ(content_of(final_path), "3");
  EXPECT_THAT(folder.names(), ElementsAre("final"));
  EXPECT_EQ(open_descriptors(), before);
}

TEST(CommitFile, NamesWhatFailed) {
  const TemporaryFolder folder;
  const int before = open_descriptors();
  EXPECT_BAD_INPUT(commit_file(folder.path() + "/none", folder.path() + "/final", true),
                   AllOf(StartsWith(folder.path() + "/none: cannot be opened: "), HasSubstr("check the path")));
  EXPECT_BAD_INPUT(commit_file(folder.put("one", "1"), folder.path() + "/none/final", true),
                   StartsWith(folder.path() + "/none/final: cannot be put in place: "));
  EXPECT_EQ(open_descriptors(), before);
}

TEST(CommitFile, SaysThatAFileCannotBeSynced) {
  UniqueFd device(::open("/dev/null", O_WRONLY));  // has nothing to sync
  EXPECT_ERROR(sync_and_close(device, "somewhere"), ExitCode::kMachine,
               StartsWith("somewhere: cannot be synced to the disk: "));
}

}  // namespace
}  // namespace roundtable
