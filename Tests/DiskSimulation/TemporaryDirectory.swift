import BorgFormat
public import Disk
public import SystemPackage

/// A new directory below `/tmp` that goes with its last owner: hence a class.
public final class TemporaryDirectory: Sendable {
  public let path: RepositoryPath

  public init() throws {
    let name = "/tmp/borg-serve-test-\(Hex.string(Host.randomBytes(8)))"
    path = try RepositoryPath(resolving: Array(name.utf8))
    _ = try path.create()
  }

  public func open() throws(Errno) -> Directory { try path.open() }

  deinit {
    let name = path.text.split(separator: "/").last.map(String.init) ?? ""
    let parent = try? RepositoryPath(resolving: Array("/tmp".utf8)).open()
    if !name.isEmpty { try? parent?.removeTree(name) }
  }
}
