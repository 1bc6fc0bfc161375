import BorgFormat
import Disk
import NetServer
import REST

/// The repositories below the root, for the server.
enum Repositories {
  static func place(_ name: RepositoryName, granted: GrantedRoots, root: String) -> any StorePlace {
    MissingPlace(name: name)
  }

  static func begin(_ head: RequestHead, _ place: any StorePlace, _ permissions: Permissions) -> any Exchange {
    fatalError()
  }
}
