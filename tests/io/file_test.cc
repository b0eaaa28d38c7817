// Reads that are whole or fail, and writes that are seen whole or not at all.
#include "io/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <utility>

#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

void write_text(const std::string& path, const std::string& text) {
  write_file_atomically(path, [&](OutputFile& out) { out.write(text.data(), text.size()); });
}

TEST(InputFile, ReadsAtAnOffset) {
  const TemporaryFolder folder;
  const InputFile file(folder.put("a", "0123456789"));
  char piece[4] = {};
  file.read_at(3, piece, 4);
  EXPECT_EQ(std::string(piece, 4), "3456");
  EXPECT_EQ(file.size(), 10u);
}

TEST(InputFile, MovesItsDescriptor) {
  const TemporaryFolder folder;
  InputFile first(folder.put("a", "one"));
  InputFile second(folder.put("b", "three"));
  second = std::move(first);
  const InputFile third(std::move(second));
  char piece[3] = {};
  third.read_at(0, piece, 3);
  EXPECT_EQ(std::string(piece, 3), "one");
}

TEST(InputFile, SaysWhyAFileIsNoFile) {
  const TemporaryFolder folder;
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 12\n";
  EXPECT_BAD_INPUT(InputFile(folder.put("a", pointer)),
                   AllOf(HasSubstr("/a: is a git-lfs pointer"), HasSubstr("git lfs pull")));
  EXPECT_NO_THROW(InputFile(folder.put("a", pointer + std::string(1024, ' '))));  // a pointer is shorter
  EXPECT_NO_THROW(InputFile(folder.put("a", "version 1")));
  std::filesystem::create_symlink("../../blobs/0a", folder.path() + "/link");
  EXPECT_BAD_INPUT(InputFile(folder.path() + "/link"),
                   AllOf(HasSubstr("/link: is a link to ../../blobs/0a, where there is no file"),
                         HasSubstr("fetch the file again")));
  EXPECT_TRUE(is_there(folder.path() + "/link"));
  EXPECT_FALSE(is_there(folder.path() + "/none"));
  EXPECT_FALSE(is_there(folder.path() + "/a/none"));
  EXPECT_BAD_INPUT(InputFile(folder.path() + "/none"), HasSubstr("No such file or directory; check the path"));
}

TEST(InputFile, ServesThreadsAtOnce) {
  const TemporaryFolder folder;
  std::string content(1 << 20, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 2654435761u >> 13);
  const InputFile file(folder.put("a", content));
  std::vector<std::string> parts(4, std::string(content.size() / 4, '\0'));
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < parts.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t at = 0; at < parts[t].size(); at += 64) {
        file.read_at(t * parts[t].size() + at, &parts[t][at], 64);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(parts[0] + parts[1] + parts[2] + parts[3] == content);
}

TEST(InputFile, RefusesAMissingFile) {
  EXPECT_BAD_INPUT(InputFile("/nowhere/a"), AllOf(StartsWith("/nowhere/a: "), HasSubstr("No such file")));
}

TEST(InputFile, RefusesAFolder) {
  const TemporaryFolder folder;
  EXPECT_BAD_INPUT(InputFile(folder.path()), HasSubstr("is a folder"));
}

TEST(InputFile, RefusesAPipeWithoutWaiting) {
  const TemporaryFolder folder;
  const std::string pipe = folder.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_BAD_INPUT(InputFile{pipe}, HasSubstr("is not a regular file"));
}

TEST(InputFile, SaysWhereAFileThatShrankEnds) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "0123456789");
  const InputFile file(path);
  ASSERT_EQ(truncate(path.c_str(), 4), 0);
  char piece[8] = {};
  EXPECT_BAD_INPUT(file.read_at(2, piece, 8), AllOf(StartsWith(path), HasSubstr("ends at byte 4, 6 bytes too early")));
}

TEST(ReadTextFile, ReadsUpToItsLimit) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "12345");
  EXPECT_EQ(read_text_file(path, 5), "12345");
  EXPECT_BAD_INPUT(read_text_file(path, 4), HasSubstr("holds 5 bytes, and at most 4 are read"));
}

TEST(WriteFileAtomically, ReplacesAFileAndLeavesNothingBeside) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old and longer");
  write_text(path, "new");
  EXPECT_EQ(content_of(path), "new");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(WriteFileAtomically, ShowsTheOldFileUntilTheEnd) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old");
  write_file_atomically(path, [&](OutputFile& out) {
    out.write("new", 3);
    EXPECT_EQ(out.position(), 3u);
    EXPECT_EQ(content_of(path), "old");
    ASSERT_EQ(folder.names().size(), 2u);
    EXPECT_THAT(folder.names()[1], AllOf(StartsWith("a.tmp-"), HasSubstr("-" + std::to_string(getpid()))));
  });
  EXPECT_EQ(content_of(path), "new");
}

TEST(WriteFileAtomically, LeavesTheOldFileWhenTheWriterThrows) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old");
  const auto broken = [](OutputFile& out) {
    out.write("new", 3);
    throw std::runtime_error("stop");
  };
  EXPECT_THROW(write_file_atomically(path, broken), std::runtime_error);
  EXPECT_EQ(content_of(path), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(WriteFileAtomically, AKillLeavesTheOldFile) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    write_file_atomically(path, [](OutputFile& out) {
      out.write("new", 3);
      raise(SIGKILL);
    });
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(content_of(path), "old");
}

TEST(WriteFileAtomically, NamesAMissingFolder) {
  EXPECT_BAD_INPUT(write_text("/nowhere/a", "x"), AllOf(StartsWith("/nowhere/a: "), HasSubstr("No such file")));
}

TEST(WriteFileAtomically, NamesAFolderInTheWay) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() + "/a");
  EXPECT_BAD_INPUT(write_text(folder.path() + "/a", "x"), HasSubstr("cannot be put in place"));
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(WriteFileAtomically, NamesAFolderWithoutPermission) {
  const TemporaryFolder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0555), 0);
  const uid_t user = geteuid();
  if (user == 0) {  // root may write anywhere
    ASSERT_EQ(seteuid(65534), 0);
  }
  EXPECT_BAD_INPUT(write_text(folder.path() + "/a", "x"), AllOf(HasSubstr("Permission denied"), HasSubstr("; ")));
  ASSERT_EQ(seteuid(user), 0);
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
}

// A limit on the size of files stands for a full disk: the write fails in its middle either way.
TEST(WriteFileAtomically, CleansUpWhenTheDiskTakesNoMore) {
  const TemporaryFolder folder;
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_ERROR(write_text(folder.path() + "/a", std::string(5000, 'x')), ExitCode::kMachine,
               AllOf(StartsWith(folder.path() + "/a: cannot be written: "), HasSubstr("ulimit -f")));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(CommitFile, GivesAFileItsName) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old");
  commit_file(folder.put("a.tmp", "new"), path, /*replace=*/true);
  EXPECT_EQ(content_of(path), "new");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(CommitFile, LeavesAFileThatIsNotToBeReplaced) {
  const TemporaryFolder folder;
  const std::string path = folder.put("a", "old");
  commit_file(folder.put("a.tmp", "new"), path, /*replace=*/false);
  EXPECT_EQ(content_of(path), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
  commit_file(folder.put("b.tmp", "new"), folder.path() + "/b", /*replace=*/false);
  EXPECT_EQ(content_of(folder.path() + "/b"), "new");
}

std::ptrdiff_t open_files() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return std::distance(begin(all), end(all));
}

TEST(CommitFile, ThatFailsNamesTheFileAndLeavesNothingOpen) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() + "/a");
  const std::string temporary = folder.put("a.tmp", "new");
  const std::ptrdiff_t before = open_files();
  EXPECT_BAD_INPUT(commit_file(temporary, folder.path() + "/a", true),
                   AllOf(StartsWith(folder.path() + "/a: "), HasSubstr("cannot be put in place")));
  EXPECT_BAD_INPUT(commit_file(folder.path() + "/gone", folder.path() + "/b", true), HasSubstr("cannot be opened"));
  // A pipe cannot be synced: it stands for a disk that fails in that call.
  const std::string pipe = folder.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int writer = open(pipe.c_str(), O_RDWR);
  EXPECT_THROW(commit_file(pipe, folder.path() + "/c", true), Error);
  close(writer);
  EXPECT_EQ(open_files(), before);
  EXPECT_THAT(folder.names(), ::testing::UnorderedElementsAre("a", "a.tmp", "pipe"));
}

}  // namespace
}  // namespace roundtable
