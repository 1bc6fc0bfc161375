import Glibc
public import SystemPackage

/// Where a repository is, or is to be: an absolute path without links, `.` and `..`, as bytes.
///
/// Resolving is what the original does (Python's `realpath`): links are followed as far as there is
/// something, the rest is taken as it stands. This is the lexical half of a restriction;
/// `RepositoryLocation` is the other one.
public struct RepositoryPath: Hashable, Sendable {
  /// Bytes, without a slash at the end, except for the root itself.
  public let bytes: [UInt8]

  private static let slash = UInt8(ascii: "/")

  /// Resolves a path, relative to the working directory unless it begins with a slash; empty is that
  /// directory itself. Throws `ELOOP`, `ENAMETOOLONG`, `EINVAL` for a NUL byte, or `getcwd`'s errors.
  public init(resolving path: [UInt8]) throws(Errno) {
    guard !path.contains(0) else { throw .invalidArgument }
    var pending = Array(Self.components(path).reversed())
    var resolved: [[UInt8]] = []
    if path.first != Self.slash { resolved = Self.components(try Self.workingDirectory()) }
    var links = 0
    while let component = pending.popLast() {
      if component == Array(".".utf8) { continue }
      if component == Array("..".utf8) {
        _ = resolved.popLast()
        continue
      }
      guard let target = try Self.link(Self.join(resolved + [component])) else {
        resolved.append(component)
        continue
      }
      links += 1
      guard links <= 40 else { throw .tooManySymbolicLinkLevels }
      if target.first == Self.slash { resolved = [] }
      pending += Self.components(target).reversed()
    }
    bytes = Self.join(resolved)
  }

  /// The path as text, for messages.
  public var text: String { String(decoding: bytes, as: UTF8.self) }

  /// Whether this is `other` or lies below it, component by component.
  public func isWithin(_ other: RepositoryPath) -> Bool {
    if other.bytes == [Self.slash] { return true }
    return bytes.starts(with: other.bytes)
      && (bytes.count == other.bytes.count || bytes[other.bytes.count] == Self.slash)
  }

  /// Opens the directory.
  public func open() throws(Errno) -> Directory {
    let calls = SystemCalls()
    return Directory(try calls.openDirectory(path: bytes), calls: calls)
  }

  /// Makes the directory and its missing parents, durably; nothing happens if it is there. Returns whether
  /// the directory itself is new.
  public func create() throws(Errno) -> Bool {
    let isNew: Bool
    do {
      try Self.makeDirectory(bytes)
      isNew = true
    } catch .fileExists {
      return false
    } catch .noSuchFileOrDirectory {
      guard let parent else { throw .noSuchFileOrDirectory }
      _ = try parent.create()
      do {
        try Self.makeDirectory(bytes)
      } catch .fileExists {
        return false
      }
      isNew = true
    }
    if let parent { try parent.open().sync() }
    return isNew
  }

  /// Removes the directory if it is empty. Throws as `rmdir` does.
  public func remove() throws(Errno) {
    let path = terminated(bytes)
    _ = try retrying { unsafe rmdir(path) }
    if let parent { try? parent.open().sync() }
  }

  static let root = RepositoryPath(resolved: [slash])

  /// The components between `ancestor`, which this is within, and this.
  func components(below ancestor: RepositoryPath) -> [[UInt8]] {
    Array(Self.components(bytes).dropFirst(Self.components(ancestor.bytes).count))
  }

  /// The same as one path; `.` if this is the ancestor itself.
  func path(below ancestor: RepositoryPath) -> [UInt8] {
    components(below: ancestor).relativePath
  }

  /// The directory that this is in; nil for the root.
  public var parent: RepositoryPath? {
    guard bytes.count > 1, let last = bytes.lastIndex(of: Self.slash) else { return nil }
    return RepositoryPath(resolved: last == 0 ? [Self.slash] : Array(bytes[..<last]))
  }

  private init(resolved bytes: [UInt8]) { self.bytes = bytes }

  private static func components(_ path: [UInt8]) -> [[UInt8]] {
    path.split(separator: slash).map(Array.init)
  }

  private static func join(_ components: [[UInt8]]) -> [UInt8] {
    components.isEmpty ? [slash] : components.flatMap { [slash] + $0 }
  }

  private static func makeDirectory(_ path: [UInt8]) throws(Errno) {
    let path = terminated(path)
    _ = try retrying { unsafe mkdir(path, 0o777) }
  }

  private static func workingDirectory() throws(Errno) -> [UInt8] {
    var buffer = [CChar](repeating: 0, count: 8192)
    guard unsafe getcwd(&buffer, buffer.count) != nil else { throw Errno(rawValue: errno) }
    return buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
  }

  /// What a symbolic link leads to; nil for everything that is none, or not there.
  private static func link(_ path: [UInt8]) throws(Errno) -> [UInt8]? {
    var buffer = [CChar](repeating: 0, count: 8192)
    let path = terminated(path)
    do {
      let count = try retrying { unsafe readlink(path, &buffer, buffer.count) }
      guard count < buffer.count else { throw Errno.fileNameTooLong }
      return buffer.prefix(count).map { UInt8(bitPattern: $0) }
    } catch .fileNameTooLong {
      throw .fileNameTooLong
    } catch {
      return nil
    }
  }
}

extension [[UInt8]] {
  /// The components as a relative path; `.` if there are none.
  var relativePath: [UInt8] {
    isEmpty ? [UInt8(ascii: ".")] : [UInt8](joined(separator: CollectionOfOne(UInt8(ascii: "/"))))
  }
}
