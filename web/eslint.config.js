import js from '@eslint/js'
import tseslint from 'typescript-eslint'

export default tseslint.config(
  { ignores: ['**/*.js', '**/*.jsx', '**/*.mjs'] },
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      'max-lines': ['error', 320],
      'max-lines-per-function': ['error', { max: 60, skipComments: true, skipBlankLines: true }], // markup is long
      'max-params': ['error', 5],
      '@typescript-eslint/no-confusing-void-expression': 'off', // `onClick={() => change(...)}`
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
    },
  },
)
