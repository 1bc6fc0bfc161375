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
  func place(_ name: RepositoryName, _ configuration: Configuration) -> any StorePlace {
    do {
      guard let location = try granted.admit(Array("\(root)/\(name)".utf8)) else {
        return UnreachablePlace(error: .pathNotAllowed(name.text))
      }
      return DirectoryPlace(
        location: location, label: name.text, contents: .anything, limit: configuration.quota(of: name))
    } catch {
      return UnreachablePlace(error: .system(SystemFailure("look at", name.text, error)))
    }
  }

  /// Sets the quotas of users, and takes back those that are none any more.
  func setQuotas(_ configuration: Configuration) throws {
    for (name, quota) in configuration.userDirectories.sorted(by: { $0.key < $1.key }) {
      guard let location = try granted.admit(Array("\(root)/\(name)".utf8)) else {
        throw ServeError.pathNotAllowed(name.text)
      }
      if quota != nil { _ = try location.create() }
      guard let directory = try? location.open() else { continue }
      // Who has no quota and never had one is not counted.
      guard try quota != nil || directory.status(RepositoryLayout.usageName) != nil else { continue }
      let ledger = try UsageLedger(root: directory, label: name.text)
      try ledger.setLimit(quota ?? 0)
      try ledger.close()
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
