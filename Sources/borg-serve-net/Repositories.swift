import BorgFormat
import Disk
import NetServer
import REST
import Storage
import SystemPackage

/// The repositories below the server's root.
struct Repositories {
  let granted: GrantedRoots
  let root: String

  /// The place of a repository, which is looked at when it is asked for.
  func place(_ name: RepositoryName) -> any StorePlace {
    do {
      guard let location = try granted.admit(Array("\(root)/\(name)".utf8)) else {
        return UnreachablePlace(error: .pathNotAllowed(name.text))
      }
      return DirectoryPlace(location: location, label: name.text, contents: .anything)
    } catch {
      return UnreachablePlace(error: .system(SystemFailure("look at", name.text, error)))
    }
  }

  /// The dialect that the network speaks.
  static func begin(_ head: RequestHead, _ place: any StorePlace, _ permissions: Permissions) -> any Exchange
  {
    Service(place: place, permissions: permissions).begin(head)
  }
}

/// Stands for a directory that cannot be resolved, or leads out of the root by a link.
private struct UnreachablePlace: StorePlace {
  let error: ServeError

  func store() throws(ServeError) -> any PathStore { throw error }
  func create() throws(ServeError) { throw error }
  func destroy() throws(ServeError) { throw error }
  func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)? { throw error }
  func tick() {}
  func close() {}
}
