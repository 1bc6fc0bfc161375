public import SystemPackage

/// Where a process's clients may have repositories: `--restrict-to-path` and `--restrict-to-repository`.
///
/// Paths are resolved anew for each request, as the original does, so that a root may appear later. Source:
/// borg 2.0.0b18 `src/borg/remote.py`, `RepositoryServer.open`.
public struct GrantedRoots: Sendable {
  /// A repository must be one of these or lie below one; empty means anywhere.
  public var paths: [[UInt8]]
  /// A repository must be one of these; empty means any. Both kinds have to admit a repository.
  public var repositories: [[UInt8]]

  public init(paths: [[UInt8]] = [], repositories: [[UInt8]] = []) {
    self.paths = paths
    self.repositories = repositories
  }

  /// Whether everything is granted.
  public var areUnrestricted: Bool { paths.isEmpty && repositories.isEmpty }

  /// Resolves a client's path; nil if it is not admitted, or was changed on the way so that it leads
  /// elsewhere.
  public func admit(_ path: [UInt8]) throws(Errno) -> RepositoryLocation? {
    if areUnrestricted { return RepositoryLocation(path: try RepositoryPath(resolving: path)) }
    // Why a path cannot be resolved would tell of places that are not granted.
    guard let resolved = try? RepositoryPath(resolving: path) else { return nil }
    let (paths, repositories) = (try Self.resolve(paths), try Self.resolve(repositories))
    guard let root = Self.root(of: resolved, paths, repositories),
      repositories.isEmpty || repositories.contains(resolved)
    else { return nil }
    do {
      return try RepositoryLocation(path: resolved, root: root, granted: self)
    } catch .tooManySymbolicLinkLevels, .improperLink {
      return nil
    }
  }

  /// The root that holds a resolved path which may also lie inside a repository; nil if none does.
  public func root(holding path: RepositoryPath) throws(Errno) -> RepositoryPath? {
    Self.root(of: path, try Self.resolve(paths), try Self.resolve(repositories))
  }

  private static func root(
    of path: RepositoryPath, _ paths: [RepositoryPath], _ repositories: [RepositoryPath]
  ) -> RepositoryPath? {
    let (around, repository) = (paths.first(where: path.isWithin), repositories.first(where: path.isWithin))
    guard paths.isEmpty || around != nil, repositories.isEmpty || repository != nil else { return nil }
    return repository ?? around
  }

  /// The roots, resolved as they are now: where both kinds are given, the repositories that lie within a path.
  var roots: [RepositoryPath] {
    get throws(Errno) {
      let (paths, repositories) = (try Self.resolve(paths), try Self.resolve(repositories))
      if repositories.isEmpty { return paths }
      return repositories.filter { paths.isEmpty || paths.contains(where: $0.isWithin) }
    }
  }

  private static func resolve(_ paths: [[UInt8]]) throws(Errno) -> [RepositoryPath] {
    try paths.map { (path) throws(Errno) in try RepositoryPath(resolving: path) }
  }
}
