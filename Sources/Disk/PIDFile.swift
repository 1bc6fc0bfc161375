import Glibc
public import SystemPackage

/// The process id of a server in a file beside its socket, locked for as long as this object lives.
///
/// A class because the lock ends with the descriptor.
public final class PIDFile: Sendable {
  public let path: [UInt8]
  private let descriptor: Int32
  private let identity: FileIdentity
  /// Whether nothing stood there before.
  private let isNew: Bool

  /// Why there can be no such file.
  public enum Failure: Error, Equatable {
    /// Another server of this kind has it.
    case locked(by: String)
    /// What stands there holds something else than a number.
    case foreign
    case system(Errno)
  }

  /// Opens and locks the file, which is created if it is missing, and changes nothing in it.
  public init(at path: [UInt8]) throws(Failure) {
    self.path = path
    while true {
      let (descriptor, isNew) = try Self.open(path)
      do {
        let identity = try Self.lock(descriptor)
        // A server that ended a moment ago may have removed the name of what was opened.
        guard (try? FileIdentity(at: path)) == identity else {
          _ = Glibc.close(descriptor)
          continue
        }
        (self.descriptor, self.isNew, self.identity) = (descriptor, isNew, identity)
        return
      } catch {
        _ = Glibc.close(descriptor)
        throw error
      }
    }
  }

  deinit { _ = Glibc.close(descriptor) }

  private static func open(_ path: [UInt8]) throws(Failure) -> (Int32, isNew: Bool) {
    let name = terminated(path)
    let flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC
    do throws(Errno) {
      do throws(Errno) {
        return (try retrying { unsafe Glibc.open(name, flags | O_CREAT | O_EXCL, 0o666) }, true)
      } catch .fileExists {
        return (try retrying { unsafe Glibc.open(name, flags) }, false)
      }
    } catch {
      throw error == .tooManySymbolicLinkLevels ? .foreign : .system(error)
    }
  }

  private static func lock(_ descriptor: Int32) throws(Failure) -> FileIdentity {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { throw .foreign }
    let content = content(of: descriptor)
    guard content.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x0a }), content.count <= 20 else {
      throw .foreign
    }
    do throws(Errno) {
      _ = try retrying { flock(descriptor, LOCK_EX | LOCK_NB) }
    } catch .wouldBlock {
      throw .locked(by: String(decoding: content.filter { $0 != 0x0a }, as: UTF8.self))
    } catch {
      // Some network file systems have no locks; then the look at the socket has to do.
    }
    return FileIdentity(status)
  }

  private static func content(of descriptor: Int32) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: 32)
    let count = (try? retrying { unsafe pread(descriptor, &buffer, buffer.count, 0) }) ?? 0
    return Array(buffer.prefix(count))
  }

  /// Writes this process's id.
  public func write() throws(Errno) {
    let text = Array(String(Host.processID).utf8)
    _ = try retrying { ftruncate(descriptor, 0) }
    _ = try retrying { unsafe pwrite(descriptor, text, text.count, 0) }
  }

  /// Removes the file, if it is still this one.
  public func remove() { identity.remove(at: path) }

  /// Removes the file if this process created it.
  public func removeIfNew() { if isNew { remove() } }
}
