public import SystemPackage

/// Where a repository is, or is to be, after it was held against what is granted: having one is the proof.
///
/// A restricted location keeps the granted root open and reaches the repository from there, following no
/// link, so that nothing that happens to the path after it was admitted leads anywhere else.
public struct RepositoryLocation: Sendable {
  /// Absolute, without links.
  public let path: RepositoryPath
  private let restriction: Restriction?

  private struct Restriction {
    /// The granted root, or the directory nearest to it that exists.
    let anchor: AnchorDirectory
    /// What lies between the anchor and the repository.
    let components: [[UInt8]]
    let granted: GrantedRoots
  }

  /// A location where everything is granted.
  public init(path: RepositoryPath) {
    self.path = path
    restriction = nil
  }

  /// Throws `ELOOP` or `EXDEV` if a link has come into the root's path since it was resolved.
  init(path: RepositoryPath, root: RepositoryPath, granted: GrantedRoots) throws(Errno) {
    var anchor = root
    var opened: AnchorDirectory?
    while opened == nil {
      do {
        opened = try AnchorDirectory(anchor)
      } catch .noSuchFileOrDirectory {
        guard let parent = anchor.parent else { throw .noSuchFileOrDirectory }
        anchor = parent
      }
    }
    guard let opened else { throw .noSuchFileOrDirectory }
    self.path = path
    restriction = Restriction(
      anchor: opened, components: path.components(below: anchor), granted: granted)
  }

  /// Opens the directory. Links below it are then followed only as far as they lead to what is granted.
  public func open() throws(Errno) -> Directory {
    guard let restriction else { return try path.open() }
    let directory = try restriction.anchor.open(restriction.components)
    return try directory.directory(calls: ConfinedCalls(granted: restriction.granted))
  }

  /// Those directories above the repository that are granted and can be opened, innermost first; without restrictions the
  /// nearest few.
  public func directoriesAbove() -> [Directory] {
    var found: [Directory] = []
    guard let restriction else {
      var parent = path.parent
      while let directory = parent, found.count < Self.mostAbove {
        if let opened = try? directory.open() { found.append(opened) }
        parent = directory.parent
      }
      return found
    }
    for count in (0..<restriction.components.count).reversed() {
      guard
        let opened = try? restriction.anchor.open(Array(restriction.components.prefix(count)))
          .directory(calls: ConfinedCalls(granted: restriction.granted))
      else { continue }
      found.append(opened)
    }
    return found
  }

  /// Deeper than anybody nests the repositories of one user.
  private static let mostAbove = 8

  /// Makes the directory and its missing parents, durably; nothing happens if it is there. Returns whether
  /// the directory itself is new.
  public func create() throws(Errno) -> Bool {
    guard let restriction else { return try path.create() }
    var directory = restriction.anchor
    var isNew = false
    for component in restriction.components {
      isNew = try directory.make(component)
      directory = try directory.open([component])
    }
    return isNew
  }

  /// Removes the directory if it is empty. Throws as `rmdir` does.
  public func remove() throws(Errno) {
    guard let restriction else { return try path.remove() }
    if let name = restriction.components.last {
      try restriction.anchor.open(Array(restriction.components.dropLast())).remove(name)
    } else if let parent = path.parent, let name = path.components(below: parent).first {
      try AnchorDirectory(parent).remove(name)
    }
  }
}

/// A directory that was reached without following a link, for names that are bytes. A mere handle: nobody needs
/// to read what lies above a repository.
///
/// A class because it owns its descriptor.
private final class AnchorDirectory: Sendable {
  private let descriptor: RawDescriptor
  private static let calls = SystemCalls()

  init(_ path: RepositoryPath) throws(Errno) {
    descriptor = try Self.calls.openDirectory(path)
  }

  private init(_ descriptor: RawDescriptor) { self.descriptor = descriptor }

  deinit { Self.calls.close(descriptor) }

  func open(_ components: [[UInt8]]) throws(Errno) -> AnchorDirectory {
    AnchorDirectory(
      try Self.calls.open(components.relativePath, beneath: descriptor, .directoryHandle, links: .refused))
  }

  /// A directory of its own, over other calls.
  func directory(calls: any DiskCalls) throws(Errno) -> Directory {
    Directory(
      try Self.calls.open([[UInt8]]().relativePath, beneath: descriptor, .directory, links: .refused),
      calls: calls)
  }

  /// Makes a directory, durably; false if it is there.
  func make(_ component: [UInt8]) throws(Errno) -> Bool {
    do {
      try Self.calls.makeDirectory(component, in: descriptor)
    } catch .fileExists {
      return false
    }
    try sync()
    return true
  }

  func remove(_ component: [UInt8]) throws(Errno) {
    try Self.calls.removeDirectory(component, in: descriptor)
    try? sync()
  }

  /// Makes the entries durable, by a descriptor for reading: a handle cannot.
  private func sync() throws(Errno) {
    let readable = try Self.calls.open(
      [[UInt8]]().relativePath, beneath: descriptor, .directory, links: .refused)
    defer { Self.calls.close(readable) }
    try Self.calls.sync(readable)
  }
}
