// Package recipes has the code of docs/RECIPES.md that needs libraries of others, and its
// tests. It is not released.
package recipes
