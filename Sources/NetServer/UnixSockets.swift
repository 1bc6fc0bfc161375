public import Disk
import SocketServer

/// The unix sockets of a configuration, opened before the kernel confines the process: it allows no new ones afterwards.
public struct UnixSockets: Sendable {
  let files: [String: SocketFile]

  /// None.
  public init() { files = [:] }

  /// Throws why one cannot be opened; then none is left.
  public init(of configuration: Configuration) throws(NetworkServer.Failure) {
    var files: [String: SocketFile] = [:]
    do throws(NetworkServer.Failure) {
      for case .unix(let path, let mode, let group) in configuration.listeners.map(\.place) {
        files[path] = try Self.open(path, mode, group)
      }
    } catch {
      for file in files.values { file.remove() }
      throw error
    }
    self.files = files
  }

  /// Where their names are, which have to be removed at the end.
  public var directories: [RepositoryPath] { files.values.map(\.directory) }

  /// Removes them, if no server came to do it.
  public func remove() { for file in files.values { file.remove() } }

  static func open(_ path: String, _ mode: UInt32, _ group: String?) throws(NetworkServer.Failure)
    -> SocketFile
  {
    let group = try self.group(group)
    do throws(SocketFile.Failure) {
      return try SocketFile(at: Array(path.utf8), mode: mode, group: group)
    } catch {
      throw NetworkServer.Failure(description: error.message)
    }
  }

  static func group(_ name: String?) throws(NetworkServer.Failure) -> UInt32? {
    guard let name else { return nil }
    guard let id = groupID(named: name) else {
      throw NetworkServer.Failure(description: "there is no group \(name)")
    }
    return id
  }
}
