import BorgFormat
import Disk
import SystemPackage

/// The file `config`, which may hold a key: its old content is overwritten when it is replaced.
///
/// Every call blocks. Source: borg 1.4.5 `src/borg/repository.py`, `open` and `save_config`.
struct ConfigFile {
  private static let name = "config"
  /// A second name of the old file, by which it is reached once it has lost its first.
  private static let oldName = "config.old"

  private let root: Directory
  private let label: String
  private let reporter: any Reporter

  /// `label` is the repository's path as the client spells it, for messages.
  init(root: Directory, label: String, reporter: any Reporter) {
    (self.root, self.label, self.reporter) = (root, label, reporter)
  }

  /// Reads the config. Throws `repositoryInvalid` if there is none, `repositoryVersion` for another one than 1, and
  /// `repositoryConfigInvalid` for what cannot be used otherwise.
  func load() throws(ServeError) -> RepositoryConfig {
    let text: [UInt8]?
    do {
      text = try root.content(Self.name, limit: Limits.repositoryConfig)
    } catch .isDirectory {
      // As in a repository of Borg 2.
      throw .repositoryInvalid(label)
    } catch {
      throw .system(SystemFailure("read", "\(label)/\(Self.name)", error))
    }
    guard let text else { throw .repositoryInvalid(label) }
    do {
      return try RepositoryConfig(parsing: text)
    } catch {
      switch error {
      case .unsupportedVersion(let version): throw .repositoryVersion(label, version)
      case .noSection, .segmentsTooLarge:
        throw .repositoryConfigInvalid(label, detail: error.reason ?? "")
      case .invalid(let reason): throw .repositoryConfigInvalid(label, detail: reason)
      }
    }
  }

  /// Replaces the config in one step, durably, and overwrites the old one unless somebody else has a link to it.
  ///
  /// With `toleratesDenial` a missing right is only warned of, as on media that a client reads without a lock. After a
  /// throw the old config is in place and whole, or the new one is and the old one's blocks may still hold a key.
  func save(_ config: RepositoryConfig, toleratesDenial: Bool) throws(ServeError) {
    if try isFile(Self.oldName) {
      reporter.log(.warning, .repository, "Old config file not securely erased on previous config update")
      // Its replacement may not be durable yet: a power cut would bring back what is overwritten now.
      try run("make durable", Self.name) { () throws(Errno) in try root.sync() }
      try erase(Self.oldName)
    }
    if try isFile(Self.name) { try keepOld() }
    var isReplaced = false
    do {
      try root.replace(Self.name, with: config.encode(), isReplaced: &isReplaced)
    } catch {
      // If the new one is in place and not durable, the old one may be needed again.
      if !isReplaced { _ = try? root.remove(Self.oldName) }
      guard toleratesDenial, error.isDenial else {
        throw .system(SystemFailure("write", "\(label)/\(Self.name)", error))
      }
      return reporter.log(.warning, .repository, denial(error, "\(label)/\(Self.name)"))
    }
    if try isFile(Self.oldName) { try erase(Self.oldName) }
  }

  /// Gives the config a second name; where there is no such thing, what it holds stays on the medium.
  private func keepOld() throws(ServeError) {
    do {
      try root.link(Self.name, to: Self.oldName)
    } catch .tooManyLinks, .noFunction, .notPermitted, .permissionDenied, .notSupported, .ioError {
      reporter.log(
        .warning, .repository,
        "Failed to securely erase old repository config file (hardlinks not supported). "
          + "Old repokey data, if any, might persist on physical storage.")
    } catch {
      throw .system(SystemFailure("link", "\(label)/\(Self.name)", error))
    }
  }

  /// Overwrites a file with random bytes, unless it has other names, and removes it.
  private func erase(_ name: String) throws(ServeError) {
    try run("erase", name) { () throws(Errno) in
      let file = try root.file(name, .update)
      let status = try file.status()
      if status.links <= 1 {
        try file.write(Host.randomBytes(status.size), 0..<status.size, at: 0)
        try file.sync()
      }
      _ = try root.remove(name)
    }
  }

  private func isFile(_ name: String) throws(ServeError) -> Bool {
    try run("look at", name) { () throws(Errno) in try root.status(name)?.kind == .file }
  }

  private func run<Result>(_ operation: String, _ name: String, _ body: () throws(Errno) -> Result)
    throws(ServeError) -> Result
  {
    try ServeError.doing(operation, "\(label)/\(name)", body)
  }
}
