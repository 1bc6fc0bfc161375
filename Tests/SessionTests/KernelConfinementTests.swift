import BorgFormat
import Disk
import Glibc
import ObjectRepository
import Session
import Testing

private struct Silence: Reporter {
  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {}
  func progress(_ progress: Progress) {}
}

/// A session that lets everything through: the hole in our own check, made on purpose.
private func openWithoutCheck(_ path: String, creates: Bool) throws(ServeError) {
  let session = Session(
    configuration: SessionConfiguration(), owner: LockOwner(hostID: "tests@1"), reporter: Silence(),
    cancellation: Cancellation())
  _ = try session.open(
    path: Array(path.utf8), creates: creates, .init(locks: true, isExclusive: true, lockWait: .zero))
  try session.close()
}

/// Whether the kernel this runs on can confine; without that there is nothing to test.
private let kernelConfines = Confinement.isAvailable

struct KernelConfinementTests {
  @Test(.enabled(if: kernelConfines, "the kernel has no Landlock of version 2"))
  func `a hole in our own check is still stopped by the kernel`() async {
    await #expect(processExitsWith: .exitCode(7)) {
      let place = try TemporaryDirectory()
      for name in ["granted", "outside"] { try place.directory.makeDirectory(name) }
      let root = String(decoding: place.path, as: UTF8.self)
      try openWithoutCheck("\(root)/outside/theirs", creates: true)
      guard
        case .confined = try Confinement.confine(
          to: GrantedRoots(paths: [Array("\(root)/granted".utf8)]))
      else { exit(1) }
      // What is granted works as ever …
      try openWithoutCheck("\(root)/granted/ours", creates: true)
      try openWithoutCheck("\(root)/granted/ours", creates: false)
      // … and nothing else does, though nobody checks.
      for creates in [false, true] {
        for name in ["outside/theirs", "outside/new"] {
          do {
            try openWithoutCheck("\(root)/\(name)", creates: creates)
            exit(2)
          } catch {
            continue
          }
        }
      }
      guard (try? place.directory.directory("outside/theirs").entries()) == nil else { exit(3) }
      exit(7)
    }
  }

  @Test(.enabled(if: kernelConfines, "the kernel has no Landlock of version 2"))
  func `a repository whose directory is missing can be made where it is granted`() async {
    await #expect(processExitsWith: .exitCode(7)) {
      let place = try TemporaryDirectory()
      let root = String(decoding: place.path, as: UTF8.self)
      let granted = GrantedRoots(repositories: [Array("\(root)/new".utf8)])
      guard case .confined(let roots) = try Confinement.confine(to: granted) else { exit(1) }
      guard roots.map(\.text) == [root] else { exit(2) }
      try openWithoutCheck("\(root)/new", creates: true)
      exit(7)
    }
  }
}
