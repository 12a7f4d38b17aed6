// What piscina loads in a thread, by require(). It imports the thread's code asynchronously: a thread that is ended while
// require() links an ES module takes the whole process down (Node 20.20: "IsGraphAsync must be used on an instantiated
// module"), one that is ended amid import() does not.

module.exports = async (args: never): Promise<void> => {
  const { default: runLane } = await import('./task-thread.ts')
  return runLane(args)
}
